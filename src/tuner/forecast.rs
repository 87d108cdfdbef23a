//! How long a call would take: what the cost model says of its programs, times what it was wrong by where calls were
//! measured.
//!
//! The model knows steps, bytes and reductions; it does not know caches, contention or what sockets are like that day. The
//! quotient of a measured call and the model, the *residual*, does, and changes slowly with the size: between two sizes
//! that were measured it is taken from both, on a logarithmic scale, and beyond them from the nearest.
#![forbid(unsafe_code)]

use super::costs::Costs;
use super::slot_limit_bytes;
use super::table::Way;
use crate::schedule::Program;
use crate::schedule::catalogue::{Algorithm, Shape, program};
use crate::schedule::cost::predict;
use crate::types::{Collective, Rank};
use std::collections::HashMap;
use std::rc::Rc;

/// What else a prediction depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// The ranks by who shares memory with whom, as in a [`Shape`].
    pub hosts: Vec<Vec<Rank>>,
    /// Bytes of one half of a rank's staging memory.
    pub stage_bytes: usize,
    /// What a link in shared memory holds.
    pub ring_bytes: usize,
}

impl Setting {
    /// The shape of a call here.
    pub fn shape(&self, collective: Collective, channels: u8) -> Shape {
        Shape { hosts: self.hosts.clone(), channels, ..Shape::apart(collective, 0) }
    }
}

/// A kind of call: which pattern, and whether peers can map its buffers.
pub type Kind = (Collective, bool);

/// How long calls took.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// Calls of this kind.
    pub kind: Kind,
    /// Done this way.
    pub way: Way,
    /// Of vectors of this size.
    pub bytes: usize,
    /// Took so long as a rule.
    pub median_ns: f64,
    /// A quarter of them took more.
    pub high_ns: f64,
}

/// Tells how long calls would take.
///
/// ```
/// use roundel::Collective;
/// use roundel::schedule::catalogue::Algorithm;
/// use roundel::schedule::cost::LinkCost;
/// use roundel::tuner::costs::MeasuredLink;
/// use roundel::tuner::{Costs, Forecast, LinkClass, Sample, Setting, Way};
/// let setting = Setting { hosts: vec![vec![0], vec![1], vec![2]], stage_bytes: 512 << 10, ring_bytes: 256 << 10 };
/// let cost = LinkCost { latency_ns: 20_000.0, ns_per_byte: 0.8 };
/// let costs = Costs {
///     local: None,
///     remote: Some(MeasuredLink { class: LinkClass::TcpBetweenHosts, cost, step_ns: 2_000.0 }),
///     memory_ns_per_byte: 0.1,
///     reduce_ns_per_byte: 0.05,
///     sync_ns: 0.0,
/// };
/// let (kind, way) = ((Collective::AllReduce, false), Way::plain(Algorithm::Ring));
/// let model = Forecast::new(&setting, &costs, &[]).ns(kind, way, 1 << 20).unwrap();
/// // A call took twice what the model says: so will one that is somewhat larger.
/// let sample = Sample { kind, way, bytes: 1 << 20, median_ns: 2.0 * model, high_ns: 2.0 * model };
/// let mut informed = Forecast::new(&setting, &costs, &[sample]);
/// assert!((informed.ns(kind, way, 1 << 20).unwrap() - 2.0 * model).abs() < 1.0);
/// assert!(informed.ns(kind, way, 2 << 20).unwrap() > 2.0 * model);
/// ```
pub struct Forecast<'a> {
    setting: &'a Setting,
    costs: &'a Costs,
    /// What the model was wrong by: logarithms of bytes and of the quotient, ascending.
    residuals: HashMap<(Kind, Way), Vec<(f64, f64)>>,
    programs: HashMap<(Collective, Algorithm, u8), Option<Programs>>,
}

/// One for each rank.
type Programs = Rc<Vec<Program>>;

impl<'a> Forecast<'a> {
    /// Learns from the samples.
    pub fn new(setting: &'a Setting, costs: &'a Costs, samples: &[Sample]) -> Forecast<'a> {
        let mut forecast = Forecast { setting, costs, residuals: HashMap::new(), programs: HashMap::new() };
        let mut residuals: HashMap<(Kind, Way), Vec<(f64, f64)>> = HashMap::new();
        for sample in samples {
            let Some(model_ns) = forecast.model_ns(sample.kind.0, sample.way, sample.bytes) else { continue };
            let point = (log(sample.bytes), (sample.median_ns.max(1.0) / model_ns).ln());
            residuals.entry((sample.kind, sample.way)).or_default().push(point);
        }
        residuals.values_mut().for_each(|points| points.sort_by(|a, b| a.0.total_cmp(&b.0)));
        forecast.residuals = residuals;
        forecast
    }

    /// Nanoseconds; `None` where the algorithm does not do the collective.
    pub fn ns(&mut self, kind: Kind, way: Way, bytes: usize) -> Option<f64> {
        let model_ns = self.model_ns(kind.0, way, bytes)?;
        let residual = self.residuals.get(&(kind, way)).map_or(0.0, |points| interpolated(points, log(bytes)));
        Some(model_ns * residual.exp())
    }

    /// What the cost model alone says.
    fn model_ns(&mut self, collective: Collective, way: Way, bytes: usize) -> Option<f64> {
        let (setting, shape) = (self.setting, self.setting.shape(collective, way.channels));
        let programs = self.programs.entry((collective, way.algorithm, way.channels)).or_insert_with(|| {
            let all = (0..shape.world()).map(|rank| program(way.algorithm, &shape, rank)).collect::<Option<Vec<_>>>();
            all.map(Rc::new)
        });
        let programs = programs.clone()?;
        let slot_bytes = match slot_limit_bytes(&programs[0], setting.stage_bytes, way.slice_bytes) {
            Some(limit) if !way.algorithm.single_round() => limit,
            _ => usize::MAX,
        };
        let model = self.costs.model(slot_bytes, setting.ring_bytes);
        Some((predict(&programs, &shape, bytes, &model).as_nanos() as f64).max(1.0))
    }
}

fn log(bytes: usize) -> f64 {
    (bytes.max(1) as f64).ln()
}

/// The value at `x` of the line through points with ascending x; beyond its ends that of the nearest.
fn interpolated(points: &[(f64, f64)], x: f64) -> f64 {
    let after = points.partition_point(|point| point.0 < x);
    match (after.checked_sub(1).map(|before| points[before]), points.get(after)) {
        (Some(left), Some(right)) => left.1 + (right.1 - left.1) * (x - left.0) / (right.0 - left.0),
        (Some(end), None) => end.1,
        (None, Some(end)) => end.1,
        (None, None) => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn between_points_a_line_and_beyond_them_the_nearest() {
        let points = [(1.0, 10.0), (3.0, 20.0), (4.0, 0.0)];
        for (x, expected) in [(0.0, 10.0), (1.0, 10.0), (2.0, 15.0), (3.0, 20.0), (3.5, 10.0), (9.0, 0.0)] {
            assert_eq!(interpolated(&points, x), expected, "{x}");
        }
        assert_eq!(interpolated(&[], 1.0), 0.0);
    }
}
