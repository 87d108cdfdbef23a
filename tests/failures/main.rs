//! What happens when things go wrong: ranks that disagree, die, leave, never come, ask for nonsense, or are strangers.
//!
//! Every test here runs the real thing. Where a rank must be a process of its own, this binary starts itself again with a
//! scenario's name ([`harness`]); the scenario runs as one rank of a job and prints lines that begin with `@`.
//! Figures are printed (`--nocapture`); what is asserted about time is generous, so that a loaded machine passes.

mod abort;
mod bad_input;
mod death;
mod elastic;
#[path = "../support/etcd.rs"]
mod etcd;
mod forks;
mod harness;
mod idle;
mod leaks;
mod mismatch;
mod remains;
mod roots;
mod siege;
mod slow;
mod store;
mod stranger;
#[path = "../support/mod.rs"]
mod support;
mod survive;
mod timeout;
