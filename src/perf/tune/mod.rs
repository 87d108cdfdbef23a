//! `roundel-tune`: every way to do every collective is measured, and what seems better than the built-in choice is measured once
//! more, against that alone, since the best of many is also the luckiest; and when all else has been measured, since a machine has
//! other minutes too. What is not confirmed is dropped.
//!
//! The forecasts are judged by sizes that they were not fitted to: each is made from every other size, and compared with what
//! was measured there.
#![forbid(unsafe_code)]

pub mod args;
pub mod race;
pub mod report;

use crate::error::{Error, Result};
use crate::perf::bench::{Bench, Layout};
use crate::perf::start::{Crew, Failure, on_all_ranks};
use crate::perf::sweep::Outcome;
use crate::tuner::decide::{SIZES, built_in, clear_winner, decide, kinds, ways};
use crate::tuner::forecast::Kind;
use crate::tuner::{Costs, Forecast, Sample, Setting, Table, Way};
use crate::{Communicator, Options, Tune};
use args::Settings;
use race::race;
use report::{Report, Row};
use serde_json::json;
use std::process::ExitCode;
use std::time::Duration;

/// What a race of two must show before another way than the built-in one is kept: so much less in the middle of the turns, and less
/// in three of four.
const CONFIRMED_GAIN: f64 = 1.08;

/// Of the time, what the first races take; the rest is for what they say.
const TRIALS: f64 = 0.6;
/// The last word has so many times the turns.
const CONFIRMING: usize = 3;

/// The whole program.
pub fn main() -> ExitCode {
    crate::log::to_stderr();
    match args::parse(std::env::args_os()) {
        Ok(settings) => super::finish("roundel-tune", start(settings)),
        Err(error) => super::refuse("roundel-tune", &error),
    }
}

fn start(settings: Settings) -> std::result::Result<ExitCode, Failure> {
    let mut options = Options::from_env()?;
    if !settings.compares {
        // What is in force plays no part in what is measured.
        options.tune = Tune::Off;
    }
    if options.algorithm.is_some() || options.channels.is_some() || options.slice_bytes.is_some() {
        let what = "ROUNDEL_ALGO, ROUNDEL_CHANNELS and ROUNDEL_SLICE_BYTES leave nothing to measure; unset them";
        return Err(Error::invalid(what).into());
    }
    let crew = Crew { procs: settings.procs, threads: settings.threads, options };
    on_all_ranks(&crew, || Ok(()), move |comm| tune(comm, &settings))
}

/// A rank's part.
fn tune(comm: Communicator, settings: &Settings) -> Result<Outcome> {
    if comm.world() == 1 {
        return Err(Error::invalid("a single rank has nobody to call; begin with two"));
    }
    let mut report = match comm.rank() {
        0 => {
            Some(Report::new(settings.json.as_ref()).map_err(|error| Error::system("opening a file for rows", error))?)
        }
        _ => None,
    };
    let (setting, in_force) = (comm.setting(), comm.table());
    let costs = comm.measure_costs()?;
    comm.follow(None);
    if let Some(report) = &mut report {
        introduce(report, &comm, &costs).map_err(unwritten)?;
    }
    let plan = Plan { settings, setting: &setting, world: comm.world() };
    let (comm, races) = match (settings.compares, in_force) {
        (false, _) => plan.run(comm, |bench, kind, bytes, time| plan.compete(bench, kind, bytes, time))?,
        (true, Some(table)) => {
            plan.run(comm, |bench, kind, bytes, time| plan.compare(bench, &table, kind, bytes, time))?
        }
        (true, None) => {
            return Err(Error::invalid("no table is in force here; write one first, or look into ROUNDEL_TUNE_FILE"));
        }
    };
    if let Some(report) = &mut report {
        conclude(report, &plan, &costs, &races).map_err(unwritten)?;
        if let Some(at) = &settings.write {
            let table = decide(&setting, &costs, &samples(&races));
            let path = comm.keep(costs, table, at.clone())?;
            report.say(&format!("written to {}", path.display())).map_err(unwritten)?;
        }
    }
    // Nobody leaves while rank 0 may still fail.
    comm.barrier()?;
    Ok(if races.iter().all(|race| race.right) { Outcome::Right } else { Outcome::Wrong })
}

fn unwritten(error: std::io::Error) -> Error {
    Error::system("writing results", error)
}

/// All that happened at one size.
struct Race {
    kind: Kind,
    bytes: usize,
    /// Empty where the table says nothing.
    samples: Vec<Sample>,
    /// Another way than the built-in one, if one is better.
    pick: Option<Way>,
    /// How much longer the built-in one took than the one that seemed better.
    gain: Option<f64>,
    right: bool,
}

/// What is measured.
struct Plan<'a> {
    settings: &'a Settings,
    setting: &'a Setting,
    world: usize,
}

impl Plan<'_> {
    /// The sizes of a kind of call, as they come out in whole blocks.
    fn sizes(&self, kind: Kind) -> Vec<usize> {
        let wanted = SIZES.into_iter().filter(|bytes| self.settings.sizes.contains(bytes));
        let mut sizes: Vec<usize> =
            wanted.map(|bytes| race::case(kind, self.world, bytes).geometry.size_bytes()).collect();
        sizes.dedup();
        sizes
    }

    fn kinds(&self) -> Vec<Kind> {
        kinds(self.setting).into_iter().filter(|kind| self.settings.collectives.contains(&kind.0)).collect()
    }

    /// Every kind of call at every size.
    fn run(
        &self,
        mut comm: Communicator,
        measure: impl Fn(&mut Bench, Kind, usize, Duration) -> Result<Race>,
    ) -> Result<(Communicator, Vec<Race>)> {
        let kinds = self.kinds();
        let count: usize = kinds.iter().map(|&kind| self.sizes(kind).len()).sum();
        let time = self.settings.time / count.max(1) as u32;
        let mut races = Vec::new();
        for mapped in [false, true] {
            let kinds: Vec<Kind> = kinds.iter().copied().filter(|kind| kind.1 == mapped).collect();
            if kinds.is_empty() {
                continue;
            }
            let sizes = kinds.iter().flat_map(|&kind| self.sizes(kind));
            let max_bytes = sizes.max().unwrap_or(0);
            let layout = Layout { max_bytes, calls: 1, unalign: 0, mapped, reuse_buffers: false };
            let mut bench = Bench::new(comm, layout)?;
            let first = races.len();
            for kind in kinds {
                for bytes in self.sizes(kind) {
                    races.push(measure(&mut bench, kind, bytes, time)?);
                }
            }
            if !self.settings.compares {
                let doubtful = races[first..].iter().filter(|race| race.pick.is_some()).count();
                let time = (time * (races.len() - first) as u32).mul_f64(1.0 - TRIALS) / doubtful.max(1) as u32;
                races[first..].iter_mut().try_for_each(|race| self.confirm(&mut bench, race, time))?;
            }
            comm = bench.comm;
        }
        Ok((comm, races))
    }

    /// All ways against each other.
    fn compete(&self, bench: &mut Bench, kind: Kind, bytes: usize, time: Duration) -> Result<Race> {
        let ways = ways(self.setting, kind, bytes);
        let outcome = race(bench, kind, bytes, &ways, self.settings.rounds as usize, time.mul_f64(TRIALS))?;
        let pick = clear_winner(self.setting, kind, bytes, &outcome.samples);
        Ok(Race { kind, bytes, samples: outcome.samples, pick, gain: None, right: outcome.right })
    }

    /// The best against the built-in one, some time later.
    fn confirm(&self, bench: &mut Bench, found: &mut Race, time: Duration) -> Result<()> {
        let (Some(way), Some(built_in)) = (found.pick, built_in(self.setting, found.kind, found.bytes)) else {
            return Ok(());
        };
        let rounds = CONFIRMING * self.settings.rounds as usize;
        let outcome = race(bench, found.kind, found.bytes, &[built_in, way], rounds, time)?;
        let confirmed = outcome.first_by_second.is_some_and(|gain| gain.median >= CONFIRMED_GAIN && gain.low > 1.0);
        if !confirmed {
            // As if they had not been tried: another one of them would only be the next luckiest.
            found.samples.retain(|sample| sample.way == built_in);
            found.pick = None;
        }
        found.gain = outcome.first_by_second.map(|gain| gain.median);
        found.right &= outcome.right;
        Ok(())
    }

    /// What a table says against the built-in choice.
    fn compare(&self, bench: &mut Bench, table: &Table, kind: Kind, bytes: usize, time: Duration) -> Result<Race> {
        let built_in = built_in(self.setting, kind, bytes);
        let tuned = table.look_up(kind.0, kind.1, bytes).filter(|way| Some(*way) != built_in);
        let (Some(built_in), Some(way)) = (built_in, tuned) else {
            return Ok(Race { kind, bytes, samples: Vec::new(), pick: None, gain: None, right: true });
        };
        let outcome = race(bench, kind, bytes, &[built_in, way], self.settings.rounds as usize, time)?;
        let (gain, right) = (outcome.first_by_second.map(|gain| gain.median), outcome.right);
        Ok(Race { kind, bytes, samples: outcome.samples, pick: Some(way), gain, right })
    }
}

fn samples(races: &[Race]) -> Vec<Sample> {
    races.iter().flat_map(|race| race.samples.iter().copied()).collect()
}

fn introduce(report: &mut Report, comm: &Communicator, costs: &Costs) -> std::io::Result<()> {
    report.say(&format!(
        "roundel {} roundel-tune: {} ranks on {} hosts, transport {}",
        env!("CARGO_PKG_VERSION"),
        comm.world(),
        comm.hosts().len(),
        comm.transport()
    ))?;
    for link in costs.local.iter().chain(&costs.remote) {
        report.say(&format!(
            "{}: {:.2} us one way, {:.2} GB/s, {:.2} us a message",
            link.class,
            (link.cost.latency_ns + 2.0 * link.step_ns) / 1e3,
            1.0 / link.cost.ns_per_byte.max(1e-3),
            link.step_ns / 1e3
        ))?;
    }
    report.say(&format!(
        "all at once: copying {:.1} GB/s, adding {:.1} GB/s; a signal is seen after {:.2} us",
        1.0 / costs.memory_ns_per_byte.max(1e-3),
        1.0 / (1.5 * costs.memory_ns_per_byte + costs.reduce_ns_per_byte).max(1e-3),
        costs.sync_ns / 1e3
    ))
}

/// Rows, what the forecasts were worth, and what is gained.
fn conclude(report: &mut Report, plan: &Plan, costs: &Costs, races: &[Race]) -> std::io::Result<()> {
    let forecasts = Forecasts::new(plan, costs, races);
    report.head()?;
    let mut gains = Vec::new();
    for race in races {
        let Some(row) = row(plan, race, &forecasts) else { continue };
        gains.extend(row.gain.filter(|_| race.pick.is_some()));
        report.row(&row)?;
    }
    if !plan.settings.compares {
        let line = match forecasts.error() {
            Some((mean, median, count)) => format!(
                "forecasts for {count} calls of sizes they were not fitted to: mean absolute error {:.0} %, median {:.0} %",
                100.0 * mean,
                100.0 * median
            ),
            None => "too few sizes to judge forecasts by".into(),
        };
        let record = forecasts.error().map(|(mean, median, count)| {
            json!({ "forecasts": count, "mean_absolute_error": mean, "median_absolute_error": median })
        });
        report.sum(&line, &record.unwrap_or(json!({ "forecasts": 0 })))?;
    }
    let geometric = (gains.iter().map(|gain| gain.ln()).sum::<f64>() / gains.len().max(1) as f64).exp();
    let least = gains.iter().copied().fold(f64::INFINITY, f64::min);
    let line = match gains.len() {
        0 => format!("the built-in choice stands for all {} sizes", races.len()),
        count => format!(
            "another way than the built-in one for {count} of {} sizes; there it takes 1/{geometric:.2} of the time \
             (geometric mean; at least 1/{least:.2})",
            races.len()
        ),
    };
    let least = if gains.is_empty() { None } else { Some(least) };
    report.sum(&line, &json!({ "sizes": races.len(), "changed": gains.len(), "gain": geometric, "least_gain": least }))
}

fn row(plan: &Plan, race: &Race, forecasts: &Forecasts) -> Option<Row> {
    let built_in = *race.samples.first()?;
    let of = |way: Way| race.samples.iter().find(|sample| sample.way == way).copied();
    let chosen = race.pick.and_then(of).unwrap_or(built_in);
    let others = race.samples.iter().filter(|sample| sample.way != chosen.way);
    Some(Row {
        kind: race.kind,
        bytes: race.bytes,
        ranks: plan.world,
        chosen,
        predicted_ns: forecasts.of(&chosen),
        built_in,
        runner_up: others.min_by(|a, b| a.median_ns.total_cmp(&b.median_ns)).copied(),
        gain: race.gain,
    })
}

/// What is forecast for each sample from those of every other size of its kind.
struct Forecasts {
    /// Measured and forecast.
    known: Vec<(Sample, f64)>,
}

impl Forecasts {
    fn new(plan: &Plan, costs: &Costs, races: &[Race]) -> Forecasts {
        let mut halves: [Vec<Sample>; 2] = [Vec::new(), Vec::new()];
        for race in races {
            let place = plan.sizes(race.kind).iter().position(|&bytes| bytes == race.bytes).unwrap_or(0);
            halves[place % 2].extend(&race.samples);
        }
        let mut known = Vec::new();
        for (fitted, judged) in [(0, 1), (1, 0)] {
            let mut forecast = Forecast::new(plan.setting, costs, &halves[fitted]);
            for sample in &halves[judged] {
                let is_fitted = halves[fitted].iter().any(|other| (other.kind, other.way) == (sample.kind, sample.way));
                let ns = forecast.ns(sample.kind, sample.way, sample.bytes).filter(|_| is_fitted);
                known.extend(ns.map(|ns| (*sample, ns)));
            }
        }
        Forecasts { known }
    }

    fn of(&self, sample: &Sample) -> Option<f64> {
        self.known.iter().find(|(known, _)| known == sample).map(|(_, ns)| *ns)
    }

    /// By how much they were wrong, in parts of what was measured: mean and median; and how many there were.
    fn error(&self) -> Option<(f64, f64, usize)> {
        let errors = self.known.iter().map(|(sample, ns)| (ns - sample.median_ns).abs() / sample.median_ns);
        let mut errors: Vec<f64> = errors.collect();
        errors.sort_by(f64::total_cmp);
        let median = *errors.get(errors.len() / 2)?;
        Some((errors.iter().sum::<f64>() / errors.len() as f64, median, errors.len()))
    }
}
