//! Trains a small network to read handwritten digits, data-parallel: every rank learns from its share of each batch, and
//! gradients are averaged by all-reduce.
//!
//! ```text
//!   cargo run --release --example data_parallel -- --procs 4       processes of this machine
//!   cargo run --release --example data_parallel -- -t 4            threads of one process
//!   torchrun --nproc-per-node 4 --no-python target/release/examples/data_parallel
//!   mpirun -n 4 target/release/examples/data_parallel
//! ```
//!
//! With `--reproducible` the weights at the end are the same, bit for bit, over every transport and with every algorithm,
//! for a given number of ranks; `--digest` prints a hash of them.

mod digits;
mod mlp;
mod train;

use clap::Parser;
use roundel::{Communicator, Options, Result, launch};
use std::process::ExitCode;
use train::{Progress, train};

/// Data-parallel training on handwritten digits.
#[derive(Parser)]
struct Args {
    /// Ranks as processes; a launcher's ranks are taken as they are
    #[arg(long, default_value_t = launch::default_procs())]
    procs: usize,
    /// Ranks as threads of this process instead
    #[arg(short = 't', long)]
    threads: Option<usize>,
    /// Passes over the training images
    #[arg(long, default_value_t = 20)]
    epochs: usize,
    /// Reduce in rank order: the same bits whatever carries them (also ROUNDEL_REPRODUCIBLE=1)
    #[arg(long)]
    reproducible: bool,
    /// Print a hash of the final weights
    #[arg(long)]
    digest: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("data_parallel: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<ExitCode> {
    let mut options = Options::from_env()?;
    options.reproducible |= args.reproducible;
    if let Some(threads) = args.threads {
        let ranks = Communicator::threads(threads, options)?;
        return std::thread::scope(|scope| {
            let ranks: Vec<_> = ranks.iter().map(|comm| scope.spawn(move || rank(comm, args))).collect();
            ranks.into_iter().try_for_each(|rank| rank.join().expect("a rank's thread does not panic"))
        })
        .map(|()| ExitCode::SUCCESS);
    }
    if let Some(code) = launch::local(args.procs)? {
        return Ok(code);
    }
    rank(&Communicator::from_env_with(options)?, args)?;
    Ok(ExitCode::SUCCESS)
}

fn rank(comm: &Communicator, args: &Args) -> Result<()> {
    let digits = digits::load();
    let say = |text: String| {
        if comm.rank() == 0 {
            println!("{text}");
        }
    };
    say(format!(
        "{} ranks over {}{}: {} images to learn from, {} held out",
        comm.world(),
        comm.transport(),
        if comm.options().reproducible { ", reproducible" } else { "" },
        digits.training.len(),
        digits.held_out.len()
    ));
    let last = train(comm, &digits, args.epochs, |Progress { epoch, loss, accuracy, .. }| {
        say(format!("epoch {epoch:>3}  loss {loss:.4}  held-out accuracy {:.2} %", accuracy * 100.0));
    })?;
    if let (true, Some(last)) = (args.digest, last) {
        say(format!("digest {:016x}", last.digest));
    }
    Ok(())
}
