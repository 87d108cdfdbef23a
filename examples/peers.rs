//! Roundel's place in a comparison with other libraries: runs a plan of collectives and prints one JSON line per cell.
//!
//! The comparison starts one process per rank, with torchrun's variables; every library in it runs this same loop:
//! check every element, warm up, time batches of calls between barriers (the slowest rank counts), check again.
//! Sizes follow nccl-tests: `bytes` is the whole vector (all-gather's output, reduce-scatter's input).
//!
//! ```text
//! RANK=0 WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=29500 \
//!     target/release/examples/peers --plan 'all_reduce:8,1024;broadcast:8' --memory private
//! ```

use clap::{Parser, ValueEnum};
use roundel::{Communicator, Options, ReduceOp, Result};
use std::time::{Duration, Instant};

#[derive(Parser)]
struct Args {
    /// Collectives and their sizes in bytes: `all_reduce:8,1024;broadcast:8`.
    #[arg(long, default_value = "all_reduce:8,1024,32768,1048576")]
    plan: String,
    /// How long to measure one cell.
    #[arg(long, default_value_t = 150e3)]
    budget_us: f64,
    /// How long one batch between two barriers lasts.
    #[arg(long, default_value_t = 2e3)]
    batch_us: f64,
    /// What to call this library in the output.
    #[arg(long, default_value = "roundel")]
    peer: String,
    /// What to call the path in the output; `tcp` and `netns` also choose the transport.
    #[arg(long, default_value = "default", env = "BENCH_PATH")]
    path: String,
    /// Interface for TCP.
    #[arg(long, env = "BENCH_IFNAME")]
    interface: Option<String>,
    /// Bind rank r to core r modulo the number of cores.
    #[arg(long)]
    pin: bool,
    /// Where the buffers are; `threads` runs all ranks as threads of the process of rank 0.
    #[arg(long, value_enum, default_value_t = Memory::Private)]
    memory: Memory,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Memory {
    Private,
    Mapped,
    Threads,
}

/// Floats, either of this process alone or in memory that other ranks can map.
enum Floats {
    Private(Vec<f32>),
    Mapped(roundel::Buffer<f32>),
}

impl Floats {
    fn new(comm: &Communicator, memory: Memory, count: usize) -> Result<Floats> {
        Ok(match memory {
            Memory::Mapped => Floats::Mapped(comm.alloc(count)?),
            Memory::Private | Memory::Threads => Floats::Private(vec![0.0; count]),
        })
    }

    fn all(&mut self) -> &mut [f32] {
        match self {
            Floats::Private(floats) => floats,
            Floats::Mapped(floats) => floats,
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Work {
    AllReduce,
    Broadcast,
    ReduceScatter,
    AllGather,
}

impl Work {
    const NAMES: [(&'static str, Work); 4] = [
        ("all_reduce", Work::AllReduce),
        ("broadcast", Work::Broadcast),
        ("reduce_scatter", Work::ReduceScatter),
        ("all_gather", Work::AllGather),
    ];

    fn name(self) -> &'static str {
        Work::NAMES.iter().find(|(_, work)| *work == self).expect("all are listed").0
    }

    fn has_part(self) -> bool {
        matches!(self, Work::ReduceScatter | Work::AllGather)
    }

    /// Bytes that cross the narrowest place, per byte of the vector: the factor of bus bandwidth.
    fn bus_factor(self, world: f64) -> f64 {
        match self {
            Work::AllReduce => 2.0 * (world - 1.0) / world,
            Work::Broadcast => 1.0,
            Work::ReduceScatter | Work::AllGather => (world - 1.0) / world,
        }
    }
}

/// One collective at one size.
struct Cell<'a> {
    comm: &'a Communicator,
    args: &'a Args,
    work: Work,
    whole: Floats,
    part: Floats,
}

fn value(rank: usize, index: usize) -> f32 {
    ((rank + 1) * (1 + (index * 7 + (index >> 9)) % 61)) as f32
}

impl Cell<'_> {
    fn fill(&mut self) {
        let (rank, work) = (self.comm.rank(), self.work);
        let (from, into) = match work {
            Work::AllGather => (&mut self.part, &mut self.whole),
            _ => (&mut self.whole, &mut self.part),
        };
        from.all().iter_mut().enumerate().for_each(|(index, slot)| *slot = value(rank, index));
        into.all().fill(0.0);
    }

    fn is_right(&mut self) -> bool {
        let (rank, world) = (self.comm.rank(), self.comm.world());
        let sum = |index| value(0, index) * (world * (world + 1) / 2) as f32;
        let count = self.part.all().len();
        let (seen, expected): (&[f32], Box<dyn Fn(usize) -> f32>) = match self.work {
            Work::AllReduce => (self.whole.all(), Box::new(sum)),
            Work::Broadcast => (self.whole.all(), Box::new(|index| value(0, index))),
            Work::ReduceScatter => (self.part.all(), Box::new(move |index| sum(count * rank + index))),
            Work::AllGather => (self.whole.all(), Box::new(move |index| value(index / count, index % count))),
        };
        seen.iter().enumerate().all(|(index, &seen)| seen == expected(index))
    }

    fn run(&mut self) -> Result<()> {
        let (whole, part) = (self.whole.all(), self.part.all());
        match self.work {
            Work::AllReduce => self.comm.all_reduce_in_place(whole, ReduceOp::Sum),
            Work::Broadcast => self.comm.broadcast(whole, 0),
            Work::ReduceScatter => self.comm.reduce_scatter(whole, part, ReduceOp::Sum),
            Work::AllGather => self.comm.all_gather(part, whole),
        }
    }

    /// Microseconds of so many calls, and with the barrier after them, on the slowest rank.
    fn batch(&mut self, calls: usize) -> Result<[f64; 2]> {
        self.comm.barrier()?;
        let start = Instant::now();
        for _ in 0..calls {
            self.run()?;
        }
        let alone = micros(start.elapsed());
        self.comm.barrier()?;
        let mut both = [alone, micros(start.elapsed())];
        self.comm.all_reduce_in_place(&mut both, ReduceOp::Max)?;
        Ok(both)
    }

    fn measure(mut self, bytes: usize) -> Result<()> {
        self.fill();
        self.comm.barrier()?;
        self.run()?;
        let mut is_right = self.is_right();
        // The values grow with every call; zeros do not.
        self.whole.all().fill(0.0);
        self.part.all().fill(0.0);
        let (mut calls, mut warm) = (1, 0);
        let (one, barrier) = loop {
            let (mut one, mut whole) = (f64::MAX, f64::MAX);
            for _ in 0..if bytes >= 32 << 20 { 1 } else { 3 } {
                let [alone, with_barrier] = self.batch(calls)?;
                (one, whole) = (one.min(alone / calls as f64), whole.min(with_barrier));
                warm += calls;
            }
            if one * calls as f64 >= self.args.batch_us / 3.0 || warm >= 4000 || calls >= 512 {
                break (one, whole - one * calls as f64);
            }
            calls *= 4;
        };
        let calls = ((self.args.batch_us / one) as usize).clamp(1, 512);
        let least = if bytes >= 32 << 20 { 3 } else { 5 };
        let batches = ((self.args.budget_us / (barrier + one * calls as f64)) as usize).clamp(least, 600);
        let mut times = Vec::with_capacity(batches);
        for _ in 0..batches {
            self.comm.barrier()?;
            let start = Instant::now();
            for _ in 0..calls {
                self.run()?;
            }
            times.push(micros(start.elapsed()) / calls as f64);
        }
        self.comm.all_reduce_in_place(&mut times, ReduceOp::Max)?;
        times.sort_by(f64::total_cmp);
        self.fill();
        self.comm.barrier()?;
        self.run()?;
        is_right &= self.is_right();
        let mut wrong = [u8::from(!is_right)];
        self.comm.all_reduce_in_place(&mut wrong, ReduceOp::Max)?;
        if self.comm.rank() == 0 {
            let at = |share: f64| times[((batches as f64 * share) as usize).min(batches - 1)];
            let median = (times[(batches - 1) / 2] + times[batches / 2]) / 2.0;
            let speed = bytes as f64 / median * 1e-3;
            let line = serde_json::json!({
                "peer": self.args.peer, "version": env!("CARGO_PKG_VERSION"), "path": self.args.path,
                "op": self.work.name(), "dtype": "f32", "ranks": self.comm.world(), "bytes": bytes,
                "iters": batches * calls, "batch": calls, "time_us_median": median, "time_us_min": times[0],
                "time_us_p10": at(0.1), "time_us_p90": at(0.9), "algbw_GBps": speed,
                "busbw_GBps": speed * self.work.bus_factor(self.comm.world() as f64), "ok": wrong[0] == 0,
            });
            println!("{line}");
        }
        self.comm.barrier()
    }
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

fn run_plan(comm: &Communicator, args: &Args) -> Result<()> {
    if args.pin {
        pin(comm.rank());
    }
    for (name, sizes) in args.plan.split(';').filter_map(|part| part.split_once(':')) {
        let Some(&(_, work)) = Work::NAMES.iter().find(|(known, _)| *known == name) else { continue };
        for bytes in sizes.split(',').filter_map(|size| size.parse::<usize>().ok()) {
            let world = comm.world();
            let mut count = bytes / 4;
            if work.has_part() {
                count = count.max(world) / world * world;
            }
            let whole = Floats::new(comm, args.memory, count)?;
            let part = Floats::new(comm, args.memory, if work.has_part() { count / world } else { 0 })?;
            Cell { comm, args, work, whole, part }.measure(count * 4)?;
        }
    }
    Ok(())
}

fn pin(rank: usize) {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut set = nix::sched::CpuSet::new();
    // A host that refuses measures unpinned, which the comparison's own probe shows.
    let _ = set.set(rank % cores).and_then(|()| nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &set));
}

fn main() -> Result<()> {
    let args = Args::parse();
    let mut options = Options::from_env()?;
    if matches!(args.path.as_str(), "tcp" | "netns") {
        options.transport = "tcp".parse()?;
        options.interface = args.interface.clone().or(options.interface);
    }
    if args.memory != Memory::Threads {
        return run_plan(&Communicator::from_env_with(options)?, &args);
    }
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    if number("RANK") != 0 {
        return Ok(());
    }
    let ranks = Communicator::threads(number("WORLD_SIZE"), options)?;
    std::thread::scope(|scope| {
        let threads: Vec<_> = ranks.iter().map(|comm| scope.spawn(|| run_plan(comm, &args))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("a rank has panicked"))
    })
}
