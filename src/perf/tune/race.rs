//! Several ways to do one call, by turns: each has a few milliseconds, then the next, and again from the start, so that
//! whatever else happens on the machine falls on all of them.
#![forbid(unsafe_code)]

use crate::error::Result;
use crate::perf::bench::{Bench, Case};
use crate::perf::data::RedOp;
use crate::perf::geometry::Geometry;
use crate::tuner::forecast::Kind;
use crate::tuner::{Origin, Rule, Sample, Table, Way};
use crate::types::{Collective, DType, ReduceOp};
use std::time::{Duration, Instant};

/// After so many turns, what takes more than twice as long as the best has had its chance.
const TRIAL_ROUNDS: usize = 2;
const HOPELESS: f64 = 2.0;

/// At least this long between two looks at the clock, where there is time for it.
const SHORTEST_TURN: Duration = Duration::from_micros(300);
const MOST_CALLS: f64 = 2000.0;

/// What became of a race.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// The ways that came to the end, and those that were given up; the first one is always among them.
    pub samples: Vec<Sample>,
    /// How much longer the first way's turns took than the second one's, turn by turn.
    pub first_by_second: Option<Quotients>,
    /// No result was wrong.
    pub right: bool,
}

/// Quotients of times, turn by turn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Quotients {
    /// Three quarters are above.
    pub low: f64,
    /// The one in the middle.
    pub median: f64,
}

/// The call that is measured for a kind: f32 sums, in place where training calls it so.
pub fn case(kind: Kind, world: usize, bytes: usize) -> Case {
    let (collective, _) = kind;
    let geometry = Geometry::new(collective, DType::F32, world, bytes);
    let in_place = matches!(collective, Collective::AllReduce | Collective::Broadcast);
    Case { geometry, op: collective.reduces().then_some(RedOp::Sum), root: 0, in_place }
}

/// A table that sends every call of a kind one way.
fn only(kind: Kind, way: Way) -> Table {
    let rule = Rule { collective: kind.0, mapped: kind.1, up_to_bytes: u64::MAX, way: Some(way) };
    Table { origin: Origin::Measured, rules: vec![rule] }
}

/// Lets the ways take turns for about so long. Collective; all ranks get the same outcome. Every way's result is checked
/// once.
pub fn race(
    bench: &mut Bench,
    kind: Kind,
    bytes: usize,
    ways: &[Way],
    rounds: usize,
    time: Duration,
) -> Result<Outcome> {
    let case = case(kind, bench.comm.world(), bytes);
    let turn = (time / (ways.len() * rounds) as u32).max(SHORTEST_TURN);
    let mut calls = Vec::new();
    let mut right = true;
    for &way in ways {
        bench.comm.follow(Some(only(kind, way)));
        let findings = bench.check(&case, 1)?;
        let mut faults = [findings.wrong + findings.outside + findings.input_changed];
        let began = Instant::now();
        bench.iterate(&case, 0, false)?;
        let mut longest = [began.elapsed().as_nanos() as f64];
        bench.comm.follow(None);
        bench.comm.all_reduce_in_place(&mut faults, ReduceOp::Sum)?;
        bench.comm.all_reduce_in_place(&mut longest, ReduceOp::Max)?;
        right &= faults == [0];
        calls.push((turn.as_nanos() as f64 / longest[0].max(1.0)).clamp(1.0, MOST_CALLS) as usize);
    }
    let mut times: Vec<Vec<f64>> = vec![Vec::new(); ways.len()];
    let mut running: Vec<usize> = (0..ways.len()).collect();
    for round in 0..rounds {
        let mut longest = Vec::new();
        for place in 0..running.len() {
            // Whoever is first has the coldest cache.
            let index = running[(place + round) % running.len()];
            bench.comm.follow(Some(only(kind, ways[index])));
            bench.iterate(&case, 0, false)?;
            bench.comm.barrier()?;
            let began = Instant::now();
            (0..calls[index]).try_for_each(|iteration| bench.iterate(&case, iteration, false))?;
            longest.push((index, began.elapsed().as_nanos() as f64 / calls[index] as f64));
        }
        bench.comm.follow(None);
        // The slowest rank's time; the same bits on all ranks, and so the same decisions.
        let mut all: Vec<f64> = longest.iter().map(|(_, ns)| *ns).collect();
        bench.comm.all_reduce_in_place(&mut all, ReduceOp::Max)?;
        longest.iter().zip(all).for_each(|(&(index, _), ns)| times[index].push(ns));
        if round + 1 == TRIAL_ROUNDS {
            let best = running.iter().map(|&index| quantile(&times[index], 0.5)).fold(f64::INFINITY, f64::min);
            running.retain(|&index| index == 0 || quantile(&times[index], 0.5) <= HOPELESS * best);
        }
    }
    let sample = |(&way, times): (&Way, &Vec<f64>)| Sample {
        kind,
        way,
        bytes: case.geometry.size_bytes(),
        median_ns: quantile(times, 0.5),
        high_ns: quantile(times, 0.75),
    };
    let first_by_second = times.get(1).map(|second| {
        let quotients: Vec<f64> = times[0].iter().zip(second).map(|(first, second)| first / second).collect();
        Quotients { low: quantile(&quotients, 0.25), median: quantile(&quotients, 0.5) }
    });
    Ok(Outcome { samples: ways.iter().zip(&times).map(sample).collect(), first_by_second, right })
}

/// The value below which this share of the values lies; the upper of two.
fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[((sorted.len() as f64 * share) as usize).min(sorted.len() - 1)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::perf::bench::Layout;
    use crate::schedule::catalogue::Algorithm;
    use crate::tuner::decide::ways;
    use crate::{Communicator, Options};

    #[test]
    fn quantiles() {
        let values = [5.0, 1.0, 4.0, 2.0, 3.0];
        assert_eq!([0.0, 0.5, 0.75, 1.0].map(|share| quantile(&values, share)), [1.0, 3.0, 4.0, 5.0]);
    }

    /// Every way that is listed does the collective right, and all ranks see the same outcome.
    #[test]
    fn every_way_is_right_on_all_ranks() {
        let ranks = Communicator::threads(3, Options::default()).unwrap();
        let run = |comm: Communicator| {
            let setting = comm.setting();
            let layout = Layout { max_bytes: 1 << 20, calls: 1, unalign: 0, mapped: false, reuse_buffers: false };
            let mut bench = Bench::new(comm, layout).unwrap();
            let mut outcomes = Vec::new();
            for collective in crate::tuner::decide::COLLECTIVES {
                for bytes in [1 << 10, 600 << 10] {
                    let ways = ways(&setting, (collective, false), bytes);
                    let time = Duration::from_millis(1);
                    let outcome = race(&mut bench, (collective, false), bytes, &ways, 3, time).unwrap();
                    assert!(outcome.right, "{collective} of {bytes}");
                    assert_eq!(outcome.samples[0].way, ways[0]);
                    assert!(outcome.samples.iter().all(|sample| sample.median_ns > 0.0));
                    outcomes.push(outcome);
                }
            }
            // Races leave nothing behind.
            let plan = bench.comm.explain(Collective::AllReduce, DType::F32, Some(ReduceOp::Sum), 2, 0, true, false);
            assert_eq!(plan.unwrap().algorithm, Algorithm::OneShot.name());
            outcomes
        };
        let threads: Vec<_> = ranks.into_iter().map(|comm| std::thread::spawn(move || run(comm))).collect();
        let seen: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        assert!(seen.iter().all(|outcomes| *outcomes == seen[0]));
    }
}
