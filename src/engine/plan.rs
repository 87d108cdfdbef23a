//! A program made ready to run many times: hazards derived, ops sorted by the port they move over.
#![forbid(unsafe_code)]

use super::call::{Call, Counts};
use super::layout::Layout;
use crate::error::{Error, Result};
use crate::schedule::catalogue::{self, Algorithm, Shape};
use crate::schedule::hazards::{Hazards, hazards, resolve};
use crate::schedule::{Op, Port, Program};
use crate::tuner::Origin;
use crate::types::{Collective, DType, Rank};
use std::collections::HashMap;
use std::sync::Arc;

/// Which half of a link an op uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Way {
    /// Towards the peer.
    Out,
    /// From the peer.
    In,
}

/// The ops of one program that move over one end of one link, in order; none where only headers are compared.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) port: Port,
    pub(crate) way: Way,
    pub(crate) ops: Vec<u32>,
}

/// What the engine needs to know of a program, independent of sizes and buffers.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) algorithm: Algorithm,
    pub(crate) channels: u8,
    pub(crate) program: Program,
    pub(crate) order: Hazards,
    /// One entry per link end.
    pub(crate) runs: Vec<Run>,
    /// Copies, reductions, signals and waits, in order.
    pub(crate) local: Vec<u32>,
    /// Signals that this rank gives in a round.
    pub(crate) signals: u32,
}

impl Plan {
    fn new(algorithm: Algorithm, shape: &Shape, me: Rank) -> Option<Plan> {
        let program = resolve(&catalogue::program(algorithm, shape, me)?, shape.in_place);
        let order = hazards(&program, shape.in_place);
        let mut runs: Vec<Run> = Vec::new();
        let mut local = Vec::new();
        for (index, op) in program.ops.iter().enumerate() {
            let (port, way) = match op {
                Op::Send { to, .. } => (*to, Way::Out),
                Op::Recv { from, .. } | Op::RecvReduce { from, .. } => (*from, Way::In),
                Op::Copy { .. } | Op::Reduce { .. } | Op::Signal | Op::Wait { .. } => {
                    local.push(index as u32);
                    continue;
                }
            };
            match runs.iter_mut().find(|run| run.port == port && run.way == way) {
                Some(run) => run.ops.push(index as u32),
                None => runs.push(Run { port, way, ops: vec![index as u32] }),
            }
        }
        if shape.collective.has_root() && !algorithm.meets() {
            compare_notes(&mut runs, shape.world(), me);
        }
        let signals = program.ops.iter().filter(|op| matches!(op, Op::Signal)).count() as u32;
        Some(Plan { algorithm, channels: shape.channels, program, order, runs, local, signals })
    }

    /// True when it moves nothing over links: its ops then simply follow each other.
    pub(crate) fn is_local(&self) -> bool {
        self.runs.is_empty()
    }

    /// True when ranks of the host order themselves by signals in it.
    pub(crate) fn uses_signals(&self) -> bool {
        self.signals > 0
    }
}

/// Which links a rooted collective uses depends on the root. Ranks that have different roots in mind would each use links
/// that the others do not look at, and might all be content. So every rank also exchanges headers, without any data,
/// with its neighbours on a ring that is the same whatever the root: where two ranks differ, somewhere on the ring two
/// neighbours differ. It is one message beside the others and adds no step.
fn compare_notes(runs: &mut Vec<Run>, world: usize, me: Rank) {
    if world < 2 {
        return;
    }
    for (peer, way) in [((me + 1) % world, Way::Out), ((me + world - 1) % world, Way::In)] {
        let port = Port { peer, channel: 0 };
        if !runs.iter().any(|run| run.port == port && run.way == way) {
            runs.push(Run { port, way, ops: Vec::new() });
        }
    }
}

/// Debug builds prove the programs of small worlds before they run them; release builds rely on the tests, which prove
/// every algorithm for all worlds up to 130 ranks.
#[cfg(debug_assertions)]
fn prove(algorithm: Algorithm, shape: &Shape) {
    use crate::schedule::check::{Capacity, check};
    const PROVED_RANKS: usize = 12;
    if shape.world() <= PROVED_RANKS {
        let programs: Vec<Program> =
            (0..shape.world()).filter_map(|rank| catalogue::program(algorithm, shape, rank)).collect();
        let rounds = if algorithm.single_round() { 1 } else { 2 };
        if let Err(violation) = check(&programs, shape, Capacity::LEAST, rounds) {
            panic!("{} for {shape:?}: {violation}", algorithm.name());
        }
    }
}

/// What decides how a call runs: calls with equal keys run alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct CallKey {
    pub(crate) collective: Collective,
    pub(crate) dtype: DType,
    pub(crate) count: usize,
    pub(crate) root: Rank,
    pub(crate) peer: Rank,
    pub(crate) in_place: bool,
    pub(crate) mapped: bool,
}

impl CallKey {
    /// `None` where counts differ from rank to rank: such calls are prepared anew.
    pub(crate) fn new(call: &Call, in_place: bool, mapped: bool) -> Option<CallKey> {
        let Counts::Even(count) = call.counts else { return None };
        let Call { collective, dtype, root, peer, .. } = *call;
        Some(CallKey { collective, dtype, count, root, peer, in_place, mapped })
    }
}

/// A call made ready: which program, and where its chunks lie.
#[derive(Debug, Clone)]
pub(crate) struct Prepared {
    pub(crate) plan: Arc<Plan>,
    pub(crate) layout: Arc<Layout>,
    /// What a slot holds at most, where the memory leaves more.
    pub(crate) slice_bytes: Option<usize>,
    /// Why it runs by this plan.
    pub(crate) origin: Origin,
    /// With mapped buffers it would run by another plan than without: the ranks of the host must settle on one.
    pub(crate) depends_on_mapping: bool,
}

/// Plans made so far. A communicator makes few different calls, many times.
#[derive(Debug)]
pub(crate) struct Plans {
    me: Rank,
    known: HashMap<(Algorithm, Shape), Arc<Plan>>,
    calls: HashMap<CallKey, Prepared>,
}

/// So many different calls are remembered whole; a program with ever new counts starts afresh.
const REMEMBERED_CALLS: usize = 512;

impl Plans {
    pub(crate) fn new(me: Rank) -> Plans {
        Plans { me, known: HashMap::new(), calls: HashMap::new() }
    }

    /// What was prepared for an equal call.
    pub(crate) fn recall(&self, key: &CallKey) -> Option<Prepared> {
        self.calls.get(key).cloned()
    }

    /// Equal calls to come are prepared anew.
    pub(crate) fn forget_calls(&mut self) {
        self.calls.clear();
    }

    /// Keeps what was prepared for equal calls to come.
    pub(crate) fn remember(&mut self, key: CallKey, prepared: Prepared) {
        if self.calls.len() >= REMEMBERED_CALLS {
            self.calls.clear();
        }
        self.calls.insert(key, prepared);
    }

    /// The plan for this algorithm and shape; in debug builds the checker proves small worlds' programs first.
    pub(crate) fn get(&mut self, algorithm: Algorithm, shape: &Shape) -> Result<Arc<Plan>> {
        if let Some(plan) = self.known.get(&(algorithm, shape.clone())) {
            return Ok(plan.clone());
        }
        let plan = Plan::new(algorithm, shape, self.me).ok_or_else(|| {
            Error::unsupported(format!("algorithm {} does not do {} here", algorithm.name(), shape.collective))
        })?;
        #[cfg(debug_assertions)]
        prove(algorithm, shape);
        let plan = Arc::new(plan);
        self.known.insert((algorithm, shape.clone()), plan.clone());
        Ok(plan)
    }
}
