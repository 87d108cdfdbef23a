//! `roundel-cluster`: starts a program as the ranks of a job on several hosts, all of them on this machine, with cables
//! between them that have a rate, and that things happen to.
//!
//! ```text
//!   args      the command line                 network   hosts, cables, and what can be done to them
//!   incident  "2.5:1:cut": what, where, when   run       the ranks, the clock, the end
//! ```
//!
//! What torchrun would set is set (`RANK`, `WORLD_SIZE`, `LOCAL_RANK`, `LOCAL_WORLD_SIZE`, `MASTER_ADDR`, `MASTER_PORT`), and
//! `ROUNDEL_IFACE` and a secret for Roundel: any program that runs under torchrun runs here. Rank 0 is on host 0, and so is what everybody meets at:
//! on the first of its cables, where hosts have several. The others are rails for data.
//!
//! Exit codes: that of the rank that failed first, 0 if none did, 2 when the command line makes no sense.

pub mod args;
pub mod incident;
pub mod network;
pub mod run;

use crate::perf;
use std::process::ExitCode;

/// The whole of `roundel-cluster`.
pub fn main() -> ExitCode {
    crate::log::to_stderr();
    let settings = match args::parse(std::env::args_os()) {
        Ok(settings) => settings,
        Err(error) => return perf::refuse("roundel-cluster", &error),
    };
    match network::inside() {
        Ok(Some(code)) => code,
        Ok(None) => run::run(&settings).unwrap_or_else(complain),
        Err(what) => complain(what),
    }
}

fn complain(what: String) -> ExitCode {
    eprintln!("roundel-cluster: {what}");
    ExitCode::from(perf::BAD_USAGE)
}
