//! Is every collective right: on every transport, for every element type and operation, in every form?
//!
//! A [suite](suites::SUITES) is a function that every rank runs over its communicator. The macro below stamps each on every
//! [backend](backend::Backend):
//!
//! | backend | ranks | between them |
//! |---|---|---|
//! | `memory` | threads | each other's memory |
//! | `tcp` | threads | TCP |
//! | `shm` | processes | shared memory |
//! | `hosts` | processes with host names of their own | shared memory and TCP |
//! | `fabric_tcp`, `fabric_net` | threads | libfabric, these providers |
//! | `fabric_shm` | processes | libfabric, this provider |
//! | `fabric_hosts` | processes with host names of their own | libfabric, over sockets or what the environment says |
//!
//! The oracle ([`numbers`]) shares no code with the library but the reference of its arithmetic.

mod backend;
mod bits;
mod calls;
mod devices;
mod flight;
mod forms;
mod ledger;
mod numbers;
mod players;
mod room;
mod splits;
mod suites;
#[path = "../support/mod.rs"]
mod support;
mod ways;

/// One module a backend, one test a suite.
macro_rules! stamp {
    ($($module:ident = $backend:ident),*; $suites:tt) => {
        $(stamp!(@ $module $backend $suites);)*
    };
    (@ $module:ident $backend:ident [$($suite:ident),* $(,)?]) => {
        mod $module {
            $(#[test]
            fn $suite() {
                crate::suites::run(crate::backend::Backend::$backend, stringify!($suite));
            })*

            /// None is forgotten here or there.
            #[test]
            fn all_suites_are_stamped() {
                let stamped = [$(stringify!($suite)),*];
                assert_eq!(crate::suites::SUITES.map(|suite| suite.name), stamped);
            }
        }
    };
}

stamp! {
    memory = Memory, tcp = Tcp, shm = Shm, hosts = Hosts,
    fabric_tcp = FabricTcp, fabric_net = FabricNet, fabric_shm = FabricShm, fabric_hosts = FabricHosts;
    [
        every_type_and_operation, counts, roots_homes_and_places, rounds, forced_algorithms, reproducible, same_bits,
        special_values, refused_wishes, barriers, groups, messages, started_calls, progress_without_the_caller, splits,
        threads, ways, waits_of_several_threads, protected, devices,
    ]
}
