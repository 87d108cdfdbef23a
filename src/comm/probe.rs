//! A quick look at what things cost: a few milliseconds of messages between two ranks for each class of links, of signals
//! and of copying, while the others wait.
//!
//! Everything is timed in blocks whose length the rank with the clock announces, so that a slow network gets few rounds and a
//! fast one many, in the same time.
#![forbid(unsafe_code)]

use super::Communicator;
use crate::device::host::{Fold, Store, copy, reduce};
use crate::error::Result;
use crate::memory::{lend, lend_mut};
use crate::schedule::cost::LinkCost;
use crate::tuner::costs::MeasuredLink;
use crate::tuner::{Costs, LinkClass};
use crate::types::{DType, Rank, ReduceOp};
use std::time::{Duration, Instant};

/// How closely to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Thoroughness {
    /// Enough to see that something is entirely different.
    Glance,
    /// Enough to choose by.
    Measure,
}

impl Thoroughness {
    /// Time for one number; at most ten are measured, and first rounds come on top.
    fn share(self) -> Duration {
        match self {
            Thoroughness::Glance => Duration::from_millis(3),
            Thoroughness::Measure => Duration::from_millis(10),
        }
    }
}

/// Messages for bandwidth: this many bytes, or the shorter ones where these take too long.
const LONG_BYTES: usize = 512 << 10;
const MEDIUM_BYTES: usize = 32 << 10;
const SHORT_BYTES: usize = 8;
/// So many messages in a row tell what each keeps a rank busy for.
const BATCH: usize = 16;
const MOST_ROUNDS: u64 = 64;
/// Fewer rounds say little where another program has the core for a moment; slower ones than these happen once.
const FEWEST_ROUNDS: u64 = 4;
const SLOW_NS: f64 = 10e6;
/// What is copied and added, within a private cache.
const LOCAL_BYTES: usize = 64 << 10;

/// What things cost. Collective; the same answer on all ranks.
pub(super) fn costs(comm: &Communicator, thoroughness: Thoroughness) -> Result<Costs> {
    let share = thoroughness.share();
    let (local_class, remote_class) = comm.link_classes();
    let hosts = comm.hosts();
    let local_pair = hosts.iter().find(|host| host.len() > 1).map(|host| (host[0], host[1]));
    let remote_pair = hosts.get(1).map(|host| (hosts[0][0], host[0]));
    let mut found = Vec::new();
    for pair in [local_pair, remote_pair] {
        found.extend(pair.map_or(Ok([0.0; 3]), |pair| link(comm, pair, share))?);
    }
    found.push(if hosts.len() == 1 { meeting(comm, share)? } else { 0.0 });
    comm.barrier()?;
    found.extend(local(share));
    // Who has not measured something has a zero there.
    comm.all_reduce_in_place(&mut found, ReduceOp::Max)?;
    let link = |class: Option<LinkClass>, found: &[f64]| {
        let [latency_ns, ns_per_byte, step_ns] = [found[0], found[1], found[2]];
        class.map(|class| MeasuredLink { class, cost: LinkCost { latency_ns, ns_per_byte }, step_ns })
    };
    let mut local = link(local_class, &found[0..3]);
    let sync_ns = match (&mut local, hosts) {
        // A meeting is a signal, a wait for each of the others, and the time in which a signal gets there. A step of a program
        // on one host is far less than a message of its own; how much less does not show here, so: half of a meeting is steps.
        (Some(local), [host]) => {
            local.step_ns = local.step_ns.min(found[6] / 2.0 / host.len() as f64);
            found[6] - host.len() as f64 * local.step_ns
        }
        // Without one to measure, a message is the nearest thing.
        (Some(local), _) => local.cost.latency_ns,
        (None, _) => 0.0,
    };
    Ok(Costs {
        local,
        remote: link(remote_class, &found[3..6]),
        memory_ns_per_byte: found[7],
        reduce_ns_per_byte: found[8],
        sync_ns,
    })
}

/// Latency, time a byte and time a message, between two ranks; zeros on all others.
fn link(comm: &Communicator, (first, second): (Rank, Rank), share: Duration) -> Result<[f64; 3]> {
    match comm.rank() {
        rank if rank == first => {
            let one_way_ns = ping(comm, second, SHORT_BYTES, share)? / 2.0;
            let medium_ns = ping(comm, second, MEDIUM_BYTES, share)? / 2.0;
            let scale = (LONG_BYTES / MEDIUM_BYTES) as f64;
            let (bytes, long_ns) = match medium_ns * scale < share.as_nanos() as f64 {
                true => (LONG_BYTES, ping(comm, second, LONG_BYTES, share)? / 2.0),
                false => (MEDIUM_BYTES, medium_ns),
            };
            let step_ns = ((volleys(comm, second, share)? - 2.0 * one_way_ns) / (BATCH - 1) as f64).max(0.0);
            announce(comm, second, [0; 3])?;
            let step_ns = step_ns.min(one_way_ns / 2.0);
            let ns_per_byte = ((long_ns - one_way_ns) / (bytes - SHORT_BYTES) as f64).max(0.0);
            Ok([one_way_ns - 2.0 * step_ns, ns_per_byte, step_ns])
        }
        rank if rank == second => answer(comm, first).map(|()| [0.0; 3]),
        _ => Ok([0.0; 3]),
    }
}

/// What follows: so many rounds, of so many messages of so many bytes. No rounds: that was all.
type Announcement = [u64; 3];

fn announce(comm: &Communicator, peer: Rank, announcement: Announcement) -> Result<()> {
    comm.send(&announcement, peer)
}

/// The other end of [`ping`] and [`volleys`].
fn answer(comm: &Communicator, peer: Rank) -> Result<()> {
    loop {
        let mut announced: Announcement = [0; 3];
        comm.recv(&mut announced, peer)?;
        let [rounds, messages, bytes] = announced;
        if rounds == 0 {
            return Ok(());
        }
        let mut message = vec![0u8; bytes as usize];
        for _ in 0..rounds {
            receive(comm, peer, messages as usize, &mut message)?;
            comm.send(&message, peer)?;
        }
    }
}

/// Nanoseconds until a message of so many bytes is back.
fn ping(comm: &Communicator, peer: Rank, bytes: usize, share: Duration) -> Result<f64> {
    rounds(comm, peer, 1, bytes, share)
}

/// Nanoseconds until a row of short messages has been answered.
fn volleys(comm: &Communicator, peer: Rank, share: Duration) -> Result<f64> {
    rounds(comm, peer, BATCH, SHORT_BYTES, share)
}

fn rounds(comm: &Communicator, peer: Rank, messages: usize, bytes: usize, share: Duration) -> Result<f64> {
    let mut message = vec![0u8; bytes];
    let mut times = Vec::new();
    let mut block = |rounds: u64, times: &mut Vec<f64>| -> Result<()> {
        announce(comm, peer, [rounds, messages as u64, bytes as u64])?;
        for _ in 0..rounds {
            let began = Instant::now();
            send(comm, peer, messages, &message)?;
            comm.recv(&mut message, peer)?;
            times.push(began.elapsed().as_nanos() as f64);
        }
        Ok(())
    };
    // The first round may have to connect; the second tells how many more there is time for.
    block(2, &mut times)?;
    let first_ns = times.pop().unwrap_or(1.0).max(1.0);
    times.clear();
    let fewest = if first_ns < SLOW_NS { FEWEST_ROUNDS } else { 1 };
    let affordable = ((share.as_nanos() as f64 / first_ns) as u64).clamp(fewest, MOST_ROUNDS);
    block(affordable, &mut times)?;
    Ok(undisturbed(times))
}

fn send(comm: &Communicator, peer: Rank, messages: usize, message: &[u8]) -> Result<()> {
    match messages {
        1 => comm.send(message, peer),
        _ => comm.group(|group| (0..messages).try_for_each(|_| group.send(message, peer))),
    }
}

fn receive(comm: &Communicator, peer: Rank, messages: usize, message: &mut [u8]) -> Result<()> {
    if messages == 1 {
        return comm.recv(message, peer);
    }
    let mut row = vec![0u8; messages * message.len()];
    comm.group(|group| row.chunks_mut(message.len()).try_for_each(|message| group.recv(message, peer)))
}

/// Nanoseconds that a meeting of all ranks takes.
fn meeting(comm: &Communicator, share: Duration) -> Result<f64> {
    const BLOCK: usize = 8;
    let began = Instant::now();
    let mut times = Vec::new();
    loop {
        for _ in 0..BLOCK {
            let begins = Instant::now();
            comm.barrier()?;
            times.push(begins.elapsed().as_nanos() as f64);
        }
        let mut goes_on = [u8::from(began.elapsed() < share && times.len() < 256)];
        comm.broadcast(&mut goes_on, 0)?;
        if goes_on == [0] {
            return Ok(if comm.rank() == 0 { undisturbed(times) } else { 0.0 });
        }
    }
}

/// Nanoseconds for copying a byte, and more for adding one, while all ranks do it.
fn local(share: Duration) -> [f64; 2] {
    let (one, other) = (vec![1u8; LOCAL_BYTES], vec![2u8; LOCAL_BYTES]);
    let mut result = vec![0u8; LOCAL_BYTES];
    let (from, into) = ([lend(&one), lend(&other)], lend_mut(&mut result));
    let fold = Fold::new(DType::U32, ReduceOp::Sum, 2);
    let timed = |work: &dyn Fn()| {
        let (began, mut times) = (Instant::now(), Vec::new());
        work();
        while began.elapsed() < share / 2 || times.is_empty() {
            let begins = Instant::now();
            work();
            times.push(begins.elapsed().as_nanos() as f64);
        }
        undisturbed(times) / LOCAL_BYTES as f64
    };
    let copied = timed(&|| copy(from[0], &[into], Store::Cached));
    let added = timed(&|| reduce(&fold, true, &from, &[into], Store::Cached));
    // Two loads and a store, of which a copy is one and one.
    [copied, (added - 1.5 * copied).max(0.0)]
}

/// What it takes as long as nobody else wants the cores: the lower quartile.
fn undisturbed(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 4).copied().unwrap_or(0.0)
}
