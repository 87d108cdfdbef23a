//! Measuring one side of a row, on every rank together: warm up, agree on a number of iterations, time, check.
#![forbid(unsafe_code)]

use crate::error::Result;
use crate::perf::bench::{Bench, Case, Findings};
use crate::perf::row::{Choice, Side};
use crate::perf::settings::{Average, Pace, Settings};
use crate::perf::stats::Stats;
use crate::types::ReduceOp;
use nix::time::{ClockId, clock_gettime};
use std::time::{Duration, Instant};

/// Without `-n`: all timed loops together should take about this long.
const WHOLE_RUN: Duration = Duration::from_secs(15);
/// One timed loop gets its share of it, but no more and no less than these.
const LONGEST_LOOP: Duration = Duration::from_millis(400);
const SHORTEST_LOOP: Duration = Duration::from_millis(5);
/// Within that time, so many iterations at least and at most.
const FEWEST_ITERS: u32 = 5;
const MOST_ITERS: u32 = 1000;

/// One measured side.
#[derive(Debug, Clone)]
pub struct Measured {
    /// For the table.
    pub side: Side,
    /// What checks found besides wrong elements, over all ranks.
    pub findings: Findings,
}

/// Runs a case on all ranks. `None`: rank 0 asked to stop, because nobody reads its output any more.
pub fn measure(
    bench: &mut Bench,
    settings: &Settings,
    case: &Case,
    loops: usize,
    stop: bool,
) -> Result<Option<Measured>> {
    let Some(iters) = agree_on_iterations(bench, settings, case, loops, stop)? else { return Ok(None) };
    let stats = time(bench, settings, case, iters)?;
    let mut findings = Findings::default();
    for round in 0..settings.checks {
        let found = bench.check(case, u64::from(round) + 1)?;
        let mut total = [found.wrong, found.outside, found.input_changed];
        bench.comm.all_reduce_in_place(&mut total, ReduceOp::Sum)?;
        findings.wrong += total[0];
        findings.outside += total[1];
        findings.input_changed += total[2];
    }
    let choice = choice(bench, settings, case)?;
    let wrong = (settings.checks > 0).then_some(findings.wrong);
    Ok(Some(Measured { side: Side { stats, iters, wrong, choice }, findings }))
}

/// Rank 0 decides, from `-n` or from how long a call took it, and tells the others.
fn agree_on_iterations(
    bench: &mut Bench,
    settings: &Settings,
    case: &Case,
    loops: usize,
    stop: bool,
) -> Result<Option<u32>> {
    for iteration in 0..settings.warmup as usize {
        bench.iterate(case, iteration, settings.pace == Pace::Nonblocking)?;
    }
    let wanted = match settings.iters {
        Some(iters) => iters,
        None => {
            bench.comm.barrier()?;
            let start = Instant::now();
            bench.iterate(case, 0, settings.pace == Pace::Nonblocking)?;
            bench.comm.barrier()?;
            affordable(start.elapsed(), loops)
        }
    };
    let mut decision = [if stop { 0 } else { u64::from(wanted) }];
    bench.comm.broadcast(&mut decision, 0)?;
    Ok((decision[0] > 0).then_some(decision[0] as u32))
}

/// How many iterations fit in one loop's share of the run, when there are so many loops and a call takes so long.
fn affordable(call: Duration, loops: usize) -> u32 {
    let share = (WHOLE_RUN / loops.max(1) as u32).clamp(SHORTEST_LOOP, LONGEST_LOOP);
    let iters = share.as_nanos() / call.as_nanos().max(1);
    (iters as u32).clamp(FEWEST_ITERS, MOST_ITERS)
}

/// Calls back to back between two looks at the clock, which also reads every iteration's own time.
fn time(bench: &mut Bench, settings: &Settings, case: &Case, iters: u32) -> Result<Stats> {
    let clock = if settings.cpu_time { ClockId::CLOCK_THREAD_CPUTIME_ID } else { ClockId::CLOCK_MONOTONIC };
    let mut stamps = Vec::with_capacity(iters as usize + 1);
    bench.comm.barrier()?;
    stamps.push(microseconds(clock));
    for iteration in 0..iters as usize {
        bench.iterate(case, iteration, settings.pace == Pace::Nonblocking)?;
        if settings.pace == Pace::Barrier {
            bench.comm.barrier()?;
        }
        stamps.push(microseconds(clock));
    }
    let calls = f64::from(settings.calls);
    let mut times: Vec<f64> = stamps.windows(2).map(|pair| (pair[1] - pair[0]) / calls).collect();
    times.push((stamps[iters as usize] - stamps[0]) / (f64::from(iters) * calls));
    match settings.average {
        Average::Rank0 => {}
        Average::Mean => bench.comm.all_reduce_in_place(&mut times, ReduceOp::Avg)?,
        Average::Min => bench.comm.all_reduce_in_place(&mut times, ReduceOp::Min)?,
        Average::Max => bench.comm.all_reduce_in_place(&mut times, ReduceOp::Max)?,
    }
    let mean = times.pop().unwrap_or_default();
    Ok(Stats::new(mean, times))
}

fn microseconds(clock: ClockId) -> f64 {
    // The clocks named above exist on every Linux; reading them does not fail.
    clock_gettime(clock).map_or(0.0, |time| time.tv_sec() as f64 * 1e6 + time.tv_nsec() as f64 * 1e-3)
}

fn choice(bench: &Bench, settings: &Settings, case: &Case) -> Result<Choice> {
    let explanation = super::explain::ask(&bench.comm, settings, case)?;
    Ok(Choice {
        algorithm: explanation.algorithm.to_string(),
        transport: explanation.transport.to_string(),
        channels: explanation.channels.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_calls_run_a_few_times_and_fast_ones_often() {
        assert_eq!(affordable(Duration::from_secs(2), 24), FEWEST_ITERS);
        assert_eq!(affordable(Duration::from_micros(3), 24), MOST_ITERS);
        assert_eq!(affordable(Duration::from_millis(10), 24), 40);
        // Many rows share the same quarter of a minute.
        assert_eq!(affordable(Duration::from_micros(100), 1500), 100);
        assert_eq!(affordable(Duration::ZERO, 0), MOST_ITERS);
    }
}
