//! Trains a small network to read handwritten digits, over processes that are killed meanwhile: one rank after the other dies
//! (`kill -9`) and a new process takes its place, until none is left that began the job. The training loses no step: its weights
//! are, bit for bit, those of one rank that nobody disturbed.
//!
//! ```text
//!   cargo run --release --example elastic -- --procs 4
//!   cargo run --release --example elastic -- --procs 4 --undisturbed      nobody dies
//! ```
//!
//! ```text
//!   supervisor       starts ranks, kills them, and hands the invitation of one that lives to the next newcomer
//!     rank           joins the job, trains with those who are there, and tells
//!       training     the steps: what `roundel::elastic::run` needs to know of them
//! ```

#[path = "../data_parallel/digits.rs"]
mod digits;
#[path = "../data_parallel/mlp.rs"]
mod mlp;
mod rank;
mod supervisor;
mod training;

use clap::Parser;
use roundel::{Error, Result, launch};
use std::process::{Command, ExitCode};
use supervisor::Plan;

/// Training on handwritten digits that outlives its ranks.
#[derive(Parser)]
struct Args {
    /// Ranks, as processes of this machine
    #[arg(long, default_value_t = launch::default_procs())]
    procs: usize,
    /// Passes over the training images, at least: it goes on until the last newcomer has come
    #[arg(long, default_value_t = 20)]
    epochs: u64,
    /// Kill nobody
    #[arg(long)]
    undisturbed: bool,
}

fn main() -> ExitCode {
    let outcome = if rank::is_one() { rank::play() } else { supervise(&Args::parse()) };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("elastic: {error}");
            ExitCode::FAILURE
        }
    }
}

fn supervise(args: &Args) -> Result<()> {
    let program = std::env::current_exe().map_err(|error| Error::system("finding this program", error))?;
    let plan = Plan { procs: args.procs, epochs: args.epochs, kills: !args.undisturbed };
    supervisor::supervise(&plan, || Command::new(&program), |line| println!("{line}"))?;
    Ok(())
}
