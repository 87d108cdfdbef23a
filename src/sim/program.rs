//! The program `roundel-sim`: many schedules, on all cores.
#![forbid(unsafe_code)]

use super::{Bug, Tally, Violation, simulate};
use clap::Parser;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Simulated schedules of the engine and the control plane: every seed is one, with its own ranks, calls, delays, deaths,
/// freezes, cuts and mistakes. Stops at the first that breaks a promise, and shows it.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// How many
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    schedules: u64,
    /// Seed of the first; the others follow
    #[arg(long, value_name = "SEED", default_value_t = 1)]
    seed: u64,
    /// Threads [default: one per core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    jobs: Option<u16>,
    /// Show what happens in the schedule, also when nothing is wrong
    #[arg(long)]
    trace: bool,
    /// Of a schedule that is shown, show so many lines at the end; 0: all
    #[arg(long, value_name = "LINES", default_value_t = 200)]
    tail: usize,
    /// Plant a bug, to see it found
    #[arg(long, value_name = "BUG", value_parser = parse_bug)]
    plant: Option<Bug>,
}

fn parse_bug(name: &str) -> Result<Bug, String> {
    let known = || Bug::all().map(|(name, _)| name).collect::<Vec<_>>().join(", ");
    let found = Bug::all().find(|(known, _)| *known == name);
    found.map(|(_, bug)| bug).ok_or_else(|| format!("there are {}", known()))
}

/// What all threads share.
struct Run {
    next: AtomicU64,
    end: u64,
    bug: Option<Bug>,
    tally: Mutex<Tally>,
    /// The lowest seed that went wrong.
    wrong: Mutex<Option<(u64, Violation)>>,
}

impl Run {
    /// One thread's share.
    fn work(&self) {
        let mut tally = Tally::default();
        loop {
            // Relaxed: only a count.
            let seed = self.next.fetch_add(1, Ordering::Relaxed);
            if seed >= self.end {
                break;
            }
            let outcome = simulate(seed, self.bug, false);
            tally.add(&outcome.tally);
            if let Some(violation) = outcome.violation {
                // Relaxed: seeds that others have taken meanwhile are run to their end.
                self.next.store(self.end, Ordering::Relaxed);
                let mut wrong = self.wrong.lock().expect("no thread panics with it");
                if wrong.as_ref().is_none_or(|(known, _)| seed < *known) {
                    *wrong = Some((seed, violation));
                }
                break;
            }
        }
        self.tally.lock().expect("no thread panics with it").add(&tally);
    }
}

/// Runs it.
pub fn main() -> ExitCode {
    let args = Args::parse();
    let jobs = args.jobs.map_or_else(crate::topology::detect::cpu_count, usize::from);
    let run = Run {
        next: AtomicU64::new(args.seed),
        end: args.seed.saturating_add(args.schedules),
        bug: args.plant,
        tally: Mutex::default(),
        wrong: Mutex::default(),
    };
    let began = Instant::now();
    std::thread::scope(|scope| (0..jobs).for_each(|_| _ = scope.spawn(|| run.work())));
    let took = began.elapsed().as_secs_f64();
    let tally = run.tally.into_inner().expect("all threads have ended");
    println!("{tally}");
    println!("speed         {:.0} schedules a second on {jobs} threads", tally.schedules() as f64 / took);
    let wrong = run.wrong.into_inner().expect("all threads have ended");
    let shown = wrong.as_ref().map(|(seed, _)| *seed).or(args.trace.then_some(args.seed));
    if let Some((seed, violation)) = &wrong {
        let plant = args.plant.map(|bug| format!(" --plant {}", bug.name())).unwrap_or_default();
        println!("\nseed {seed} is wrong: {}", violation.what);
        println!(
            "replay: cargo run --release --features sim --bin roundel-sim -- --seed {seed} --schedules 1{plant} --trace\n"
        );
    }
    if let Some(seed) = shown {
        show(&simulate(seed, args.plant, true).trace, args.tail);
    }
    if wrong.is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn show(trace: &[String], tail: usize) {
    let skipped = if tail == 0 { 0 } else { trace.len().saturating_sub(tail) };
    if skipped > 0 {
        println!("({skipped} lines before these; all of them with --tail 0)");
    }
    trace[skipped..].iter().for_each(|line| println!("{line}"));
}
