//! Ranks that wait sleep; and worlds with more ranks than cores, of odd sizes, get through.

use super::harness::{self, Job, RootIn, Scenario, say};
use nix::unistd::{SysconfVar, sysconf};
use roundel::{Communicator, ReduceOp};
use std::time::{Duration, Instant};

const WORLD: usize = 6;
const MEASURED: Duration = Duration::from_secs(1);

pub const SCENARIOS: &[Scenario] =
    &[("idle in recv", idle_in_recv), ("idle in barrier", idle_in_barrier), ("crowd", crowd)];

fn idle_in_recv(comm: Communicator) {
    comm.barrier().unwrap();
    say("ready");
    // Ends when the test does.
    let _ = comm.recv(&mut [0u8; 100], (comm.rank() + 1) % WORLD);
}

fn idle_in_barrier(comm: Communicator) {
    comm.all_reduce_in_place(&mut [1f32; 5000], ReduceOp::Sum).unwrap();
    say("ready");
    let _ = if comm.rank() == 2 { comm.recv(&mut [0u8], 0) } else { comm.barrier() };
}

/// User and system time that a process has used.
fn cpu_time(job: &Job, rank: usize) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", job.pid(rank))).expect("it runs");
    let (_, rest) = stat.rsplit_once(')').expect("the name is in parentheses");
    // After the name: state is the first, utime the 12th, stime the 13th.
    let ticks: u64 = rest.split_whitespace().skip(11).take(2).map(|field| field.parse::<u64>().unwrap()).sum();
    let hertz = sysconf(SysconfVar::CLK_TCK).unwrap().expect("Linux says how long a tick is");
    Duration::from_secs_f64(ticks as f64 / hertz as f64)
}

#[test]
fn ranks_that_wait_use_no_cpu() {
    let _turn = harness::turn();
    for transport in harness::between_processes() {
        for scenario in ["idle in recv", "idle in barrier"] {
            let mut job = Job::start(scenario, WORLD, RootIn::Parent, &[("ROUNDEL_TRANSPORT", transport)]);
            job.wait_for_all(&[0, 1, 2, 3, 4, 5], "ready");
            (0..WORLD).for_each(|rank| job.wait_until_asleep(rank));
            let before: Vec<Duration> = (0..WORLD).map(|rank| cpu_time(&job, rank)).collect();
            let began = Instant::now();
            std::thread::sleep(MEASURED);
            let measured = began.elapsed();
            let used: Vec<Duration> = (0..WORLD).map(|rank| cpu_time(&job, rank) - before[rank]).collect();
            println!(
                "{scenario} over {transport}: {WORLD} ranks used {:?} of CPU in {measured:?}",
                used.iter().sum::<Duration>()
            );
            for used in used {
                assert!(used < measured.mul_f64(0.3), "{used:?} in {measured:?}");
            }
        }
    }
}

/// A few collectives with checked results.
fn crowd(comm: Communicator) {
    let (me, world) = (comm.rank(), comm.world());
    for count in [1, 1000, 100_000] {
        let mut sum = vec![me as u32; count];
        comm.all_reduce_in_place(&mut sum, ReduceOp::Sum).unwrap();
        assert!(sum.iter().all(|&sum| sum as usize == world * (world - 1) / 2));
        let mut all = vec![0u32; world * count];
        comm.all_gather(&vec![me as u32; count], &mut all).unwrap();
        assert!(all.chunks(count).enumerate().all(|(rank, block)| block.iter().all(|&word| word as usize == rank)));
        let mut word = vec![me as u64; count];
        comm.broadcast(&mut word, world - 1).unwrap();
        assert!(word.iter().all(|&word| word as usize == world - 1));
    }
    let mut swapped = vec![0u32; world];
    comm.all_to_all(&(0..world).map(|to| (me * 100 + to) as u32).collect::<Vec<_>>(), &mut swapped).unwrap();
    assert!(swapped.iter().enumerate().all(|(from, &word)| word as usize == from * 100 + me));
    comm.barrier().unwrap();
    say("done");
}

#[test]
fn odd_worlds_of_processes() {
    let _turn = harness::turn();
    for transport in harness::between_processes() {
        for world in [12, 17] {
            let began = Instant::now();
            let mut job = Job::start("crowd", world, RootIn::Parent, &[("ROUNDEL_TRANSPORT", transport)]);
            let ranks: Vec<usize> = (0..world).collect();
            job.wait_for_all(&ranks, "done");
            job.succeed(&ranks);
            println!("{world} processes over {transport}: {:?}", began.elapsed());
        }
    }
}

#[test]
fn odd_worlds_of_threads() {
    let _turn = harness::turn();
    for transport in harness::between_threads() {
        for world in [12, 17] {
            harness::threads(world, harness::options(transport), crowd);
        }
    }
}
