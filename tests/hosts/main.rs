//! Jobs that span hosts: network namespaces joined by a cable, hosts that are only called different, and TCP between
//! neighbours. All of it on this machine.

#[path = "../support/etcd.rs"]
mod etcd;
mod job;
mod links;
mod namespaces;
mod net;
mod pretended;
mod roles;
mod store;
#[path = "../support/mod.rs"]
mod support;

/// What a rank process runs (see `support`); nothing when the tests run.
#[test]
fn rank_process() {
    if let Some((role, argument)) = support::role() {
        roles::play(&role, &argument);
    }
}
