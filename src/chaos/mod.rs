//! `roundel-chaos`: real processes make checked calls without end while they are killed, frozen, cut off, joined and besieged,
//! one event after the other, and everything that the library promises is checked after each.
//!
//! ```text
//!   args         the command line          rank       one process of the job: calls, and what comes after an error
//!   referee      event after event           task     a call with known results    holdings  what the process holds
//!     strikes    each kind of event        words      what the two say to each other
//!     growth     those with newcomers      crew       the processes, from outside; a network each (crate::cluster)
//!     strangers  who knock at doors        job        who is a member, and whether all are well
//!     flip       a bit of what travels     sockets    what a process is connected to
//!   tally        the table                 random     one seed decides
//! ```
//!
//! After each event, within a bound: the call that every survivor was in has ended, with a right result or with an error that
//! accuses none of the living and has left its input alone; all survivors have the same members and no result was wrong
//! since; whoever was given up has been told that it is the one; and no survivor holds more descriptors, threads or
//! mappings than before. Whoever died is replaced by newcomers, so that in the end no process lives that the job began with.
//!
//! Exit codes: 0 all right, 1 something was not, 2 the command line makes no sense.

pub mod args;
pub mod crew;
pub mod event;
pub mod flip;
pub mod growth;
pub mod holdings;
pub mod job;
pub mod random;
pub mod rank;
pub mod referee;
pub mod sockets;
pub mod strangers;
pub mod strikes;
pub mod tally;
pub mod task;
pub mod words;

use crate::perf;
use std::process::ExitCode;

/// The whole of `roundel-chaos`.
pub fn main() -> ExitCode {
    crate::log::to_stderr();
    if let Ok(settings) = std::env::var(rank::SETTINGS) {
        return rank::main(&settings);
    }
    let settings = match args::parse(std::env::args_os()) {
        Ok(settings) => settings,
        Err(error) => return perf::refuse("roundel-chaos", &error),
    };
    let inside = if settings.namespaces { crate::cluster::network::inside() } else { Ok(None) };
    match inside {
        Ok(Some(code)) => code,
        Ok(None) => referee::run(&settings),
        Err(what) => {
            eprintln!("roundel-chaos: {what}");
            ExitCode::from(perf::BAD_USAGE)
        }
    }
}
