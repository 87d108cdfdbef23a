//! From costs and samples to a [`Table`]. Pure: the same numbers, the same table.
//!
//! The built-in choice holds unless something else is clearly better, since it was measured too, and with more care than the
//! start of a job or a minute of measuring allows:
//!
//! - where calls were measured, the other way must have taken at least a twentieth less, and three quarters of its calls less than
//!   the built-in one's median;
//! - where there is nothing but the model, which is wrong by tens of percent, at least a third less.
#![forbid(unsafe_code)]

use super::costs::Costs;
use super::forecast::{Forecast, Kind, Sample, Setting};
use super::table::{Rule, Table, Way};
use super::{Choice, Origin, SINGLE_ROUND_BYTES, Situation, choose, slot_limit_bytes};
use crate::schedule::catalogue::{Algorithm, candidates, program};
use crate::types::Collective;

/// Collectives among whose algorithms there is a choice. A message has one way to go, and a barrier's is settled by who
/// shares memory.
pub const COLLECTIVES: [Collective; 8] = [
    Collective::AllReduce,
    Collective::Reduce,
    Collective::Broadcast,
    Collective::ReduceScatter,
    Collective::AllGather,
    Collective::Gather,
    Collective::Scatter,
    Collective::AllToAll,
];

/// Vectors for which a decision is made: from 8 B to 32 MiB, each four times the one before.
pub const SIZES: [usize; 12] = {
    let mut sizes = [8; 12];
    let mut index = 1;
    while index < sizes.len() {
        sizes[index] = 4 * sizes[index - 1];
        index += 1;
    }
    sizes
};

/// What another way must save, where both were measured and where both are the model's.
const MEASURED_GAIN: f64 = 0.05;
const MODELLED_GAIN: f64 = 1.0 / 3.0;

/// Below this size more channels or smaller slices are more steps and nothing else.
const CUT_BYTES: usize = 512 << 10;

/// Kinds of calls that there is something to decide about here.
pub fn kinds(setting: &Setting) -> Vec<Kind> {
    let one_host = setting.hosts.len() == 1;
    let plain = COLLECTIVES.map(|collective| (collective, false));
    let mapped = COLLECTIVES.map(|collective| (collective, true)).into_iter().filter(|_| one_host);
    plain.into_iter().chain(mapped).collect()
}

/// The ways to do such a call, the built-in one first.
pub fn ways(setting: &Setting, kind: Kind, bytes: usize) -> Vec<Way> {
    let (collective, mapped) = kind;
    let shape = setting.shape(collective, 1);
    let Some(built_in) = built_in(setting, kind, bytes) else { return Vec::new() };
    let fits = |algorithm: &Algorithm| match algorithm {
        Algorithm::OneShot => bytes <= SINGLE_ROUND_BYTES,
        Algorithm::FlatPush => mapped,
        _ => algorithm.meets() == shape.is_one_host(),
    };
    let mut ways = vec![built_in];
    for algorithm in candidates(&shape).into_iter().filter(fits) {
        ways.push(Way::plain(algorithm));
        if bytes >= CUT_BYTES {
            ways.extend(cuts(setting, collective, algorithm, bytes));
        }
    }
    let mut seen = Vec::new();
    ways.retain(|way| {
        let is_new = !seen.contains(way);
        seen.push(*way);
        is_new
    });
    ways
}

/// The same algorithm with more channels, or with other slices.
fn cuts(setting: &Setting, collective: Collective, algorithm: Algorithm, bytes: usize) -> Vec<Way> {
    let plain = Way::plain(algorithm);
    let mut ways = Vec::new();
    if setting.hosts.iter().all(|host| host.len() == 1) && collective != Collective::AllToAll {
        ways.extend([2, 4].map(|channels| Way { channels, ..plain }));
    }
    let Some(program) = program(algorithm, &setting.shape(collective, 1), 0) else { return ways };
    if algorithm.single_round() {
        return ways;
    }
    if let Some(limit_bytes) = slot_limit_bytes(&program, setting.stage_bytes, None) {
        let chunk_bytes = bytes / program.chunks.max(1) as usize;
        let slices = [32 << 10, 64 << 10, 1 << 20].into_iter().filter(|&slice_bytes| {
            let slot_bytes = slot_limit_bytes(&program, setting.stage_bytes, Some(slice_bytes));
            slot_bytes.is_some_and(|slot_bytes| slot_bytes.min(chunk_bytes) != limit_bytes.min(chunk_bytes))
        });
        ways.extend(slices.map(|slice_bytes| Way { slice_bytes: Some(slice_bytes), ..plain }));
    }
    ways
}

/// What is done without a table.
pub fn built_in(setting: &Setting, kind: Kind, bytes: usize) -> Option<Way> {
    let situation = Situation { mapped: kind.1, ..Situation::sized(bytes) };
    choose(&setting.shape(kind.0, 1), situation).ok().map(|Choice { way, .. }| way)
}

/// A decision at one size: another way than the built-in one, or `None`.
type Pick = (usize, Option<Way>);

/// The table that follows. Where there are samples of a kind of call, only ways that were measured are considered; where there
/// are none, the model's word counts.
pub fn decide(setting: &Setting, costs: &Costs, samples: &[Sample]) -> Table {
    let mut forecast = Forecast::new(setting, costs, samples);
    let mut rules = Vec::new();
    for kind in kinds(setting) {
        let of_kind: Vec<Sample> = samples.iter().filter(|sample| sample.kind == kind).copied().collect();
        let picks = match (samples.is_empty(), of_kind.is_empty()) {
            // A job waits for this: every other size will do.
            (true, _) => {
                let sizes = SIZES.into_iter().skip(1).step_by(2);
                sizes.map(|bytes| (bytes, modelled(&mut forecast, setting, kind, bytes))).collect()
            }
            (false, true) => continue,
            (false, false) => measured(setting, kind, &of_kind),
        };
        rules.extend(ruled(&mut forecast, setting, kind, &picks));
    }
    rules.sort_by_key(|rule: &Rule| (rule.collective, rule.mapped, rule.up_to_bytes));
    Table { origin: Origin::Measured, rules }
}

/// What the model alone says is worth leaving the built-in choice for.
fn modelled(forecast: &mut Forecast, setting: &Setting, kind: Kind, bytes: usize) -> Option<Way> {
    let built_in = built_in(setting, kind, bytes)?;
    let built_in_ns = forecast.ns(kind, built_in, bytes)?;
    // Channels and slices are about what the model leaves out.
    let plain = ways(setting, kind, bytes).into_iter().filter(|way| *way == Way::plain(way.algorithm));
    let timed: Vec<(Way, f64)> = plain.filter_map(|way| Some((way, forecast.ns(kind, way, bytes)?))).collect();
    let (best, best_ns) = timed.into_iter().min_by(|a, b| a.1.total_cmp(&b.1))?;
    (best != built_in && best_ns < built_in_ns * (1.0 - MODELLED_GAIN)).then_some(best)
}

/// The way that was clearly better than the built-in one, if one was, among samples of one size.
pub fn clear_winner(setting: &Setting, kind: Kind, bytes: usize, samples: &[Sample]) -> Option<Way> {
    let built_in = built_in(setting, kind, bytes)?;
    let built_in_ns = samples.iter().find(|sample| sample.way == built_in)?.median_ns;
    let better = samples
        .iter()
        .filter(|sample| sample.median_ns < built_in_ns * (1.0 - MEASURED_GAIN) && sample.high_ns < built_in_ns);
    better.min_by(|a, b| a.median_ns.total_cmp(&b.median_ns).then(a.way.cmp(&b.way))).map(|sample| sample.way)
}

/// [`clear_winner`] at each size that was measured.
fn measured(setting: &Setting, kind: Kind, samples: &[Sample]) -> Vec<Pick> {
    let mut sizes: Vec<usize> = samples.iter().map(|sample| sample.bytes).collect();
    sizes.sort_unstable();
    sizes.dedup();
    let pick = |bytes: usize| {
        let here: Vec<Sample> = samples.iter().filter(|sample| sample.bytes == bytes).copied().collect();
        clear_winner(setting, kind, bytes, &here)
    };
    sizes.into_iter().map(|bytes| (bytes, pick(bytes))).collect()
}

/// Rules that go from pick to pick. Where two neighbours differ, the forecast for the size between them says how far the
/// smaller one's holds.
fn ruled(forecast: &mut Forecast, setting: &Setting, kind: Kind, picks: &[Pick]) -> Vec<Rule> {
    let mut rules = Vec::new();
    let rule = |up_to_bytes, way| Rule { collective: kind.0, mapped: kind.1, up_to_bytes, way };
    // What was found at one end of the sizes holds beyond it; what was found somewhere between says nothing about there.
    let [smallest, largest] = [SIZES[0] * setting.shape(kind.0, 1).world(), SIZES[SIZES.len() - 1] / 2];
    if let Some(&(first_bytes, _)) = picks.first().filter(|(bytes, _)| *bytes > smallest) {
        rules.push(rule(first_bytes as u64 / 2, None));
    }
    for (index, &(bytes, way)) in picks.iter().enumerate() {
        let up_to_bytes = match picks.get(index + 1) {
            None if bytes > largest => u64::MAX,
            None => bytes as u64,
            Some(&(_, next)) if next == way => continue,
            Some(&(next_bytes, next)) => {
                let between = (bytes as f64 * next_bytes as f64).sqrt() as usize;
                let mut at = |way: Option<Way>| {
                    let way = way.or_else(|| built_in(setting, kind, between))?;
                    forecast.ns(kind, way, between)
                };
                let holds = at(way).zip(at(next)).is_some_and(|(this, next)| this <= next);
                if holds { between as u64 } else { bytes as u64 }
            }
        };
        rules.push(rule(up_to_bytes, way));
    }
    if rules.iter().all(|rule| rule.way.is_none()) { Vec::new() } else { rules }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tuner::costs::tests::network;
    use proptest::prelude::*;

    fn apart(world: usize) -> Setting {
        let hosts = (0..world).map(|rank| vec![rank]).collect();
        Setting { hosts, stage_bytes: 512 << 10, ring_bytes: 256 << 10 }
    }

    const ALL_REDUCE: Kind = (Collective::AllReduce, false);

    fn sample(way: Way, bytes: usize, median_ns: f64, high_ns: f64) -> Sample {
        Sample { kind: ALL_REDUCE, way, bytes, median_ns, high_ns }
    }

    fn picked(table: &Table, bytes: usize) -> Option<Algorithm> {
        table.look_up(Collective::AllReduce, false, bytes).map(|way| way.algorithm)
    }

    #[test]
    fn a_far_network_wants_few_steps_and_a_slow_one_few_bytes() {
        let setting = apart(8);
        // 10 ms away: sharing the vector out in twice three steps, as the built-in choice does, is slower than everything to
        // its owner and back.
        let far = decide(&setting, &network(10e6, 0.1), &[]);
        assert_eq!(picked(&far, 512 << 10), Some(Algorithm::Direct));
        // 1 us away at 10 MB/s: even 32 KiB cost more than steps do.
        let slow = decide(&setting, &network(1_000.0, 100.0), &[]);
        let way = picked(&slow, 32 << 10).expect("the built-in choice sends it whole, three times");
        assert!([Algorithm::Pat, Algorithm::Direct, Algorithm::Ring].contains(&way), "{way}");
        assert_eq!(picked(&slow, 8), None);
    }

    #[test]
    fn what_was_measured_clearly_faster_is_taken_and_nothing_else() {
        let (setting, costs) = (apart(4), network(10_000.0, 1.0));
        let bytes = 32 << 10;
        let built_in = built_in(&setting, ALL_REDUCE, bytes).unwrap();
        let ring = Way::plain(Algorithm::Ring);
        assert_ne!(built_in, ring);
        let decided = |median_ns, high_ns| {
            let samples = [sample(built_in, bytes, 100e3, 110e3), sample(ring, bytes, median_ns, high_ns)];
            picked(&decide(&setting, &costs, &samples), bytes)
        };
        assert_eq!(decided(80e3, 90e3), Some(Algorithm::Ring));
        assert_eq!(decided(97e3, 98e3), None, "too close");
        assert_eq!(decided(80e3, 130e3), None, "too uneven");
        assert_eq!(decided(180e3, 190e3), None, "slower");
    }

    #[test]
    fn without_a_sample_of_the_built_in_choice_nothing_changes() {
        let (setting, costs) = (apart(4), network(10_000.0, 1.0));
        let samples = [sample(Way::plain(Algorithm::Ring), 32 << 10, 1.0, 1.0)];
        assert_eq!(decide(&setting, &costs, &samples).rules, []);
    }

    #[test]
    fn a_pick_holds_up_to_where_the_next_one_is_forecast_to_be_better() {
        let (setting, costs) = (apart(4), network(10_000.0, 1.0));
        let ring = Way::plain(Algorithm::Ring);
        let sizes = [8 << 10, 32 << 10, 128 << 10];
        let mut samples = Vec::new();
        for (bytes, ring_ns) in sizes.into_iter().zip([300e3, 80e3, 80e3]) {
            samples.push(sample(built_in(&setting, ALL_REDUCE, bytes).unwrap(), bytes, 100e3, 100e3));
            samples.push(sample(ring, bytes, ring_ns, ring_ns));
        }
        let table = decide(&setting, &costs, &samples);
        assert_eq!(table.check(&setting.hosts), Ok(()));
        let [ring, none] = [Some(Algorithm::Ring), None];
        // Nothing was measured below 8 KiB and above 128 KiB.
        let sizes = [8, 8 << 10, 32 << 10, 128 << 10, 256 << 10];
        assert_eq!(sizes.map(|bytes| picked(&table, bytes)), [none, none, ring, ring, none]);
        // The largest size of all stands for what is larger.
        let end = SIZES[SIZES.len() - 1];
        let here = built_in(&setting, ALL_REDUCE, end).unwrap();
        let samples = [sample(here, end, 100e3, 100e3), sample(Way::plain(Algorithm::Pat), end, 50e3, 50e3)];
        let table = decide(&setting, &costs, &samples);
        let pat = Some(Algorithm::Pat);
        assert_eq!([end / 4, end, 1 << 30].map(|bytes| picked(&table, bytes)), [none, pat, pat]);
    }

    #[test]
    fn every_way_is_listed_once_and_the_built_in_one_first() {
        let here = Setting { hosts: vec![(0..4).collect()], stage_bytes: 512 << 10, ring_bytes: 256 << 10 };
        for setting in [apart(3), here] {
            for kind in kinds(&setting) {
                for bytes in SIZES {
                    let ways = ways(&setting, kind, bytes);
                    assert_eq!(ways.first().copied(), built_in(&setting, kind, bytes), "{kind:?} {bytes}");
                    let mut distinct = ways.clone();
                    distinct.sort();
                    distinct.dedup();
                    assert_eq!(distinct.len(), ways.len(), "{kind:?} {bytes}: {ways:?}");
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

        /// Whatever was measured, the table makes sense, and the same numbers in another order give the same one.
        #[test]
        fn any_measurements_make_a_sound_table(
            world in 2_usize..6,
            one_host: bool,
            latency_ns in 0.0_f64..1e7,
            ns_per_byte in 0.0_f64..100.0,
            numbers in prop::collection::vec((0_usize..400, 1.0_f64..1e9, 1.0_f64..2.0), 0..40),
        ) {
            let hosts = if one_host { vec![(0..world).collect()] } else { apart(world).hosts };
            let setting = Setting { hosts, ..apart(1) };
            let link = network(latency_ns, ns_per_byte).remote;
            let (local, remote) = if one_host { (link, None) } else { (None, link) };
            let costs = Costs { local, remote, sync_ns: latency_ns, ..network(0.0, 0.0) };
            let mut samples: Vec<Sample> = Vec::new();
            for (which, median_ns, spread) in numbers {
                let kinds = kinds(&setting);
                let (kind, bytes) = (kinds[which % kinds.len()], SIZES[which % SIZES.len()]);
                let ways = ways(&setting, kind, bytes);
                let way = ways[which % ways.len()];
                if samples.iter().all(|known| (known.kind, known.way, known.bytes) != (kind, way, bytes)) {
                    samples.push(Sample { kind, way, bytes, median_ns, high_ns: median_ns * spread });
                }
            }
            let table = decide(&setting, &costs, &samples);
            prop_assert_eq!(table.check(&setting.hosts), Ok(()));
            samples.reverse();
            prop_assert_eq!(decide(&setting, &costs, &samples), table);
        }
    }
}
