//! Communicators that are gone leave nothing behind, however they went.

use super::harness::{self, Job, RootIn, Scenario, say};
use roundel::{Communicator, ReduceOp, TransportChoice};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

pub const SCENARIOS: &[Scenario] = &[("lifetimes", lifetimes), ("splits", splits), ("wait to die", wait_to_die)];

/// What a process holds, as the kernel counts it.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Clone)]
struct Holdings {
    fds: usize,
    threads: usize,
    mappings: usize,
    shm_files: BTreeSet<String>,
}

fn holdings() -> Holdings {
    let entries = |path: &str| std::fs::read_dir(path).expect("/proc is mounted").count();
    let maps = std::fs::read_to_string("/proc/self/maps").expect("/proc is mounted");
    Holdings {
        fds: entries("/proc/self/fd"),
        threads: entries("/proc/self/task"),
        // Only what is shared or a file: the allocator's own mappings come and go with threads.
        mappings: maps
            .lines()
            .filter(|line| line.split_whitespace().nth(1).is_some_and(|mode| mode.ends_with('s')))
            .count(),
        shm_files: roundel_files("/dev/shm"),
    }
}

fn roundel_files(folder: &str) -> BTreeSet<String> {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    files.map(|file| file.file_name().to_string_lossy().into_owned()).filter(|name| name.contains("roundel")).collect()
}

/// Address space in use, in KiB.
fn virtual_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("/proc is mounted");
    let line = status.lines().find_map(|line| line.strip_prefix("VmSize:")).expect("Linux tells");
    line.trim().trim_end_matches(" kB").trim().parse().expect("a number")
}

/// Waits until this process holds no more than `before`: threads that nobody joins end a moment later.
fn back_to(before: &Holdings, what: &str) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let now = holdings();
        if now.fds <= before.fds && now.threads <= before.threads && now.mappings <= before.mappings {
            assert_eq!(now.shm_files, before.shm_files, "{what}");
            return;
        }
        assert!(Instant::now() < deadline, "{what} left something behind: {before:?} became {now:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn all_reduce_of_two(comms: &[Communicator]) {
    std::thread::scope(|scope| {
        for comm in comms {
            scope.spawn(|| {
                let mut data = vec![1u32; 20_000];
                comm.all_reduce_in_place(&mut data, ReduceOp::Sum).unwrap();
                assert!(data.iter().all(|&sum| sum == 2));
                comm.start_all_reduce(vec![1f64; 10], ReduceOp::Sum).unwrap().wait().unwrap();
            });
        }
    });
}

fn lifetimes(comm: Communicator) {
    drop(comm);
    let fabric = harness::has_fabric().then_some((TransportChoice::Fabric, 60));
    for (transport, count) in [(TransportChoice::Memory, 1000), (TransportChoice::Tcp, 300)].into_iter().chain(fabric) {
        let life = || all_reduce_of_two(&Communicator::threads(2, harness::options(transport)).unwrap());
        (0..20).for_each(|_| life());
        back_to(&Holdings { threads: 2, ..holdings() }, "warming up");
        let (before, kib_before, began) = (holdings(), virtual_kib(), Instant::now());
        (0..count).for_each(|_| life());
        let took = began.elapsed();
        back_to(&before, "communicators");
        let grown_kib = virtual_kib().saturating_sub(kib_before);
        // Arenas of the C allocator account for this much at most.
        assert!(grown_kib < 600 << 10, "{grown_kib} KiB more address space after {count} lifetimes");
        say(format_args!(
            "figure {count} lifetimes over {transport}: {took:?}, {before:?}, {grown_kib} KiB more address space"
        ));
    }
    say("done");
}

fn splits(comm: Communicator) {
    drop(comm);
    for transport in harness::between_threads() {
        let comms = Communicator::threads(2, harness::options(transport)).unwrap();
        let split = |times: usize| {
            std::thread::scope(|scope| {
                for comm in &comms {
                    scope.spawn(move || {
                        for _ in 0..times {
                            let half = comm.split(Some(0), -(comm.rank() as i64)).unwrap().unwrap();
                            let mut data = [half.rank() as u32; 2000];
                            half.all_reduce_in_place(&mut data, ReduceOp::Sum).unwrap();
                            assert_eq!(data, [1; 2000]);
                        }
                    });
                }
            });
        };
        all_reduce_of_two(&comms);
        split(20);
        let before = holdings();
        split(200);
        back_to(&before, "splits");
        all_reduce_of_two(&comms);
    }
    say("done");
}

/// Says which sockets it has, and waits.
fn wait_to_die(comm: Communicator) {
    comm.all_reduce_in_place(&mut vec![1f32; 100_000], ReduceOp::Sum).unwrap();
    let named: BTreeSet<String> = listed_sockets().intersection(&own_sockets()).cloned().collect();
    say(format_args!("sockets {}", named.into_iter().collect::<Vec<_>>().join(" ")));
    let _ = comm.recv(&mut [0u8], (comm.rank() + 1) % comm.world());
}

fn own_sockets() -> BTreeSet<String> {
    let fds = std::fs::read_dir("/proc/self/fd").expect("/proc is mounted").flatten();
    let links = fds.filter_map(|fd| std::fs::read_link(fd.path()).ok());
    links.filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_string())).collect()
}

/// Inodes of the Unix sockets that exist.
fn listed_sockets() -> BTreeSet<String> {
    let table = std::fs::read_to_string("/proc/net/unix").expect("/proc is mounted");
    table.lines().skip(1).filter_map(|line| line.split_whitespace().nth(6)).map(str::to_string).collect()
}

fn in_a_process(scenario: &str) {
    let _turn = harness::turn();
    let mut job = Job::start(scenario, 1, RootIn::Parent, &[]);
    job.wait_for(0, "done");
    for figure in job.heard("figure") {
        println!("{figure}");
    }
    job.succeed(&[0]);
}

#[test]
fn a_thousand_lifetimes() {
    in_a_process("lifetimes");
}

#[test]
fn hundreds_of_splits() {
    in_a_process("splits");
}

#[test]
fn killed_ranks_leave_nothing() {
    let _turn = harness::turn();
    for transport in harness::between_processes() {
        let mut job = Job::start("wait to die", 4, RootIn::RankZero, &[("ROUNDEL_TRANSPORT", transport)]);
        let sockets = job.wait_for_all(&[0, 1, 2, 3], "sockets").join(" ");
        let sockets: BTreeSet<String> = sockets.split_whitespace().map(str::to_string).collect();
        assert!(!sockets.is_empty(), "a rank has at least the socket that wakes its control thread");
        for rank in 0..4 {
            job.kill(rank);
        }
        for rank in 0..4 {
            assert!(!job.end_of(rank).success());
        }
        let remain: Vec<String> = listed_sockets().intersection(&sockets).cloned().collect();
        assert!(remain.is_empty(), "sockets of dead ranks: {remain:?}");
        assert_eq!(roundel_files("/dev/shm"), BTreeSet::new());
    }
}
