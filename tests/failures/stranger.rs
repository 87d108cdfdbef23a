//! Strangers at the doors of a job that starts and runs: the root's and those of the data endpoints.
//!
//! 1,000 of them unless `ROUNDEL_TEST_STRANGERS` says more; all over loopback.

use super::harness::{self, Job, RootIn, Scenario, say};
use super::siege::{Id, Strangers};
use roundel::{Communicator, ReduceOp};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

pub const SCENARIOS: &[Scenario] = &[("besieged", besieged)];

const RANKS: usize = 3;
/// Names the file that ends the siege.
const PEACE: &str = "FAILURES_PEACE";
/// What a porch holds at most.
const HALF_OPEN: usize = 64;
/// Lines about strangers that one porch may write in a second, and their sum.
const LINES_PER_SECOND: usize = 21;

fn strangers() -> usize {
    let asked = std::env::var("ROUNDEL_TEST_STRANGERS");
    asked.map_or(1000, |count| count.parse().expect("ROUNDEL_TEST_STRANGERS is a number"))
}

/// Ports on which this very process listens.
fn own_ports() -> Vec<u16> {
    let fds = std::fs::read_dir("/proc/self/fd").expect("/proc is mounted").flatten();
    let own: BTreeSet<String> = fds
        .filter_map(|fd| std::fs::read_link(fd.path()).ok())
        .filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_string()))
        .collect();
    let table = std::fs::read_to_string("/proc/net/tcp").expect("/proc is mounted");
    let listening = table.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        // Local address, state (0A: listening) and inode.
        let (_, port) = fields[1].split_once(':')?;
        (fields[3] == "0A" && own.contains(fields[9])).then(|| u16::from_str_radix(port, 16).ok())?
    });
    listening.collect()
}

/// What this process holds: descriptors, threads, KiB of memory.
fn holdings() -> [usize; 3] {
    let entries = |path: &str| std::fs::read_dir(path).expect("/proc is mounted").count();
    let status = std::fs::read_to_string("/proc/self/status").expect("/proc is mounted");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("Linux tells");
    let kib = line.trim().trim_end_matches(" kB").trim().parse().expect("a number");
    [entries("/proc/self/fd"), entries("/proc/self/task"), kib]
}

/// Counts the lines that the library would write about strangers.
struct Log;

static LINES: AtomicUsize = AtomicUsize::new(0);

impl tracing::Subscriber for Log {
    fn enabled(&self, about: &tracing::Metadata<'_>) -> bool {
        *about.level() <= tracing::Level::WARN
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, _: &tracing::Event<'_>) {
        // Relaxed: only a count.
        LINES.fetch_add(1, Ordering::Relaxed);
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

/// A rank: works, and makes new connections all the time, until there is peace.
fn besieged(comm: Communicator) {
    let round = || {
        // New connections have to get in between the strangers.
        let fresh = comm.split(Some(0), 0).unwrap().unwrap();
        for comm in [&comm, &fresh] {
            let mut data: Vec<u32> = (0..50_000).map(|at| at + comm.rank() as u32).collect();
            comm.all_reduce_in_place(&mut data, ReduceOp::Sum).unwrap();
            let world = RANKS as u32;
            assert!(data.iter().zip(0..).all(|(&sum, at)| sum == world * at + world * (world - 1) / 2));
        }
    };
    // As much as it takes when nobody disturbs; rank 0 has been disturbed from the start.
    (0..5).for_each(|_| round());
    let (before, began) = (holdings(), Instant::now());
    let ports: Vec<String> = own_ports().iter().map(u16::to_string).collect();
    say(format_args!("ports {}", ports.join(" ")));
    let peace = std::env::var(PEACE).unwrap_or_default();
    let (mut rounds, mut peak) = (0, before);
    loop {
        let mut goes_on = [u8::from(!Path::new(&peace).exists())];
        comm.broadcast(&mut goes_on, 0).unwrap();
        round();
        rounds += 1;
        for (peak, now) in peak.iter_mut().zip(holdings()) {
            *peak = (*peak).max(now);
        }
        if goes_on == [0] && rounds >= 20 {
            break;
        }
    }
    let doors = ports.len();
    let seconds = began.elapsed().as_secs() as usize + 2;
    // Relaxed: only a count.
    let lines = LINES.load(Ordering::Relaxed);
    say(format_args!(
        "result {rounds} rounds; {before:?} descriptors, threads, KiB at first, {peak:?} at most; {lines} lines"
    ));
    // A link's connections and a thread that dials come and go with the splits.
    assert!(peak[0] <= before[0] + HALF_OPEN * doors + 32, "descriptors: {before:?}, {peak:?}");
    assert!(peak[1] <= before[1] + 2 * RANKS, "threads: {before:?}, {peak:?}");
    assert!(peak[2] <= before[2] + (64 << 10), "memory: {before:?}, {peak:?}");
    // Since it was started; it had a few seconds before `began` too.
    assert!(lines <= LINES_PER_SECOND * doors * (seconds + 60), "{lines} lines in {seconds} s");
}

/// For the processes of [`strangers_disturb_nothing`]: called before they join.
pub fn count_lines() {
    if std::env::var_os(PEACE).is_some() {
        tracing::subscriber::set_global_default(Log).expect("nobody else logs here");
    }
}

#[test]
fn strangers_disturb_nothing() {
    let _turn = harness::turn();
    let peace =
        std::env::temp_dir().join(format!("roundel-peace-{}-{:x}", std::process::id(), getrandom::u64().unwrap()));
    let settings = [("ROUNDEL_TRANSPORT", "tcp"), ("ROUNDEL_SOCKETS", "2"), (PEACE, peace.to_str().unwrap())];
    let began = Instant::now();
    let mut besiegers = None;
    let mut job = Job::start_after("besieged", RANKS, RootIn::RankZero, &settings, |id| {
        let id = Id::read(id);
        let mut strangers_here = Strangers::of(&id);
        // Before the others come, and while they do.
        strangers_here.knock(&[id.root.port()], strangers() / 4);
        let more = strangers() / 4;
        besiegers = Some(std::thread::spawn(move || {
            strangers_here.knock(&[id.root.port()], more);
            strangers_here
        }));
    });
    let ports = |rank: usize, job: &mut Job| -> Vec<u16> {
        job.wait_for(rank, "ports").split_whitespace().map(|port| port.parse().unwrap()).collect()
    };
    // The kernel's table may repeat itself while connections come and go.
    let doors: BTreeSet<u16> = (0..RANKS).flat_map(|rank| ports(rank, &mut job)).collect();
    let doors: Vec<u16> = doors.into_iter().collect();
    assert!(
        doors.len() > 2 * RANKS,
        "every rank has a door for data and one for the control plane, and the root: {doors:?}"
    );
    let mut besiegers = besiegers.take().unwrap().join().unwrap();
    println!("all joined {:.1} s after {} strangers", began.elapsed().as_secs_f64(), besiegers.sent);
    besiegers.knock(&doors, strangers() - besiegers.sent);
    std::fs::write(&peace, "").unwrap();
    for (rank, line) in job.wait_for_all(&[0, 1, 2], "result").into_iter().enumerate() {
        println!("rank {rank}: {line}");
    }
    job.succeed(&[0, 1, 2]);
    let _ = std::fs::remove_file(&peace);
    println!("{} strangers in {:.1} s", besiegers.sent, began.elapsed().as_secs_f64());
}
