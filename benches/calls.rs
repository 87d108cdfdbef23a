//! What a call costs, and what a link carries: an all-reduce of 8 B where there is nobody else and between two threads, and
//! messages over rings in shared memory and over TCP, there and back.
//!
//! `cargo bench --bench calls [-- WORD...]`: only the rows that contain every word ("link tcp"). Two ranks are two threads: a
//! link's rings and sockets are what they are between processes, and `all_reduce_perf` measures those.

use roundel::{Communicator, Options, Rank, ReduceOp, Result, TransportChoice};
use std::time::{Duration, Instant};

const SHORT_BYTES: usize = 8;
const LONG_BYTES: usize = 64 << 20;
/// Each row takes about so long.
const ROW: Duration = Duration::from_millis(800);
/// Blocks of a row; their times are what medians and minima are taken of.
const BLOCKS: usize = 20;

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    let wanted = |name: &str| words.iter().all(|word| name.contains(word.as_str()));
    println!("{:40} {:>12} {:>12}", "row", "median", "best");
    for (world, name) in [(1, "engine: 8 B, 1 rank"), (2, "engine: 8 B, 2 threads")] {
        if wanted(name) {
            let ns = times(world, TransportChoice::Memory, |comm| {
                let mut data = [comm.rank() as f32; SHORT_BYTES / 4];
                move |comm: &Communicator| comm.all_reduce_in_place(&mut data, ReduceOp::Max)
            })?;
            println!("{name:40} {:9.3} us {:9.3} us", quantile(&ns, 0.5) / 1e3, quantile(&ns, 0.0) / 1e3);
        }
    }
    for (transport, called) in [(TransportChoice::Shm, "shm"), (TransportChoice::Tcp, "tcp")] {
        let name = format!("link {called}: 8 B one way");
        if wanted(&name) {
            let ns = times(2, transport, |_| there_and_back(SHORT_BYTES))?;
            println!("{name:40} {:9.3} us {:9.3} us", quantile(&ns, 0.5) / 2e3, quantile(&ns, 0.0) / 2e3);
        }
        let name = format!("link {called}: 64 MiB one way");
        if wanted(&name) {
            let ns = times(2, transport, |_| there_and_back(LONG_BYTES))?;
            let rate = |ns: f64| 2.0 * LONG_BYTES as f64 / ns;
            println!("{name:40} {:7.2} GB/s {:7.2} GB/s", rate(quantile(&ns, 0.5)), rate(quantile(&ns, 0.0)));
        }
    }
    Ok(())
}

/// A message to the other rank, and one of the same length from it.
fn there_and_back(len_bytes: usize) -> impl FnMut(&Communicator) -> Result<()> {
    // Touched, so that no block meets a page for the first time.
    let mut message = vec![1u8; len_bytes];
    move |comm| {
        let peer: Rank = 1 - comm.rank();
        if comm.rank() == 0 {
            comm.send(&message, peer)?;
            return comm.recv(&mut message, peer);
        }
        comm.recv(&mut message, peer)?;
        comm.send(&message, peer)
    }
}

/// Nanoseconds a call on rank 0, block by block. All ranks make the same number of calls.
fn times<W: FnMut(&Communicator) -> Result<()>>(
    world: usize,
    transport: TransportChoice,
    work: impl Fn(&Communicator) -> W + Sync,
) -> Result<Vec<f64>> {
    let comms = Communicator::threads(world, Options { transport, ..Options::default() })?;
    std::thread::scope(|scope| {
        let run = |comm: Communicator| {
            let work = &work;
            scope.spawn(move || blocks(&comm, work(&comm)))
        };
        let running: Vec<_> = comms.into_iter().map(run).collect();
        let done: Result<Vec<Vec<f64>>> =
            running.into_iter().map(|thread| thread.join().expect("a rank does not panic")).collect();
        Ok(done?.swap_remove(0))
    })
}

fn blocks(comm: &Communicator, mut work: impl FnMut(&Communicator) -> Result<()>) -> Result<Vec<f64>> {
    work(comm)?;
    let began = Instant::now();
    work(comm)?;
    let affordable = ROW.as_nanos() / BLOCKS as u128 / began.elapsed().as_nanos().max(1);
    let mut calls = [(affordable as u64).clamp(1, 1_000_000)];
    comm.broadcast(&mut calls, 0)?;
    let mut times = Vec::with_capacity(BLOCKS);
    for _ in 0..BLOCKS {
        comm.barrier()?;
        let began = Instant::now();
        (0..calls[0]).try_for_each(|_| work(comm))?;
        times.push(began.elapsed().as_nanos() as f64 / calls[0] as f64);
    }
    Ok(times)
}

/// The value below which this share of the values lies.
fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[((sorted.len() as f64 * share) as usize).min(sorted.len() - 1)]
}
