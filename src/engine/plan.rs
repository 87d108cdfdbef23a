//! A program made ready to run many times: hazards derived, ops sorted by the port they move over.
#![forbid(unsafe_code)]

use crate::error::{Error, Result};
use crate::schedule::catalogue::{self, Algorithm, Shape};
use crate::schedule::hazards::{Hazards, hazards, resolve};
use crate::schedule::{Op, Port, Program};
use crate::types::Rank;
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

/// The ops of one program that move over one end of one link, in order.
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
    pub(crate) program: Program,
    pub(crate) order: Hazards,
    /// One entry per link end.
    pub(crate) runs: Vec<Run>,
    /// Copies, reductions, signals and waits, in order.
    pub(crate) local: Vec<u32>,
    /// The most staging slots that any rank of the world uses; all agree, so all cut the same rounds.
    pub(crate) stage_slots: u32,
    /// Likewise of scratch slots.
    pub(crate) scratch_slots: u32,
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
        let (mut stage_slots, mut scratch_slots) = (program.stage_slots, program.scratch_slots);
        if !matches!(algorithm, Algorithm::OneShot) {
            for rank in 0..shape.world() {
                let theirs = catalogue::program(algorithm, shape, rank)?;
                stage_slots = stage_slots.max(theirs.stage_slots);
                scratch_slots = scratch_slots.max(theirs.scratch_slots);
            }
        }
        let signals = program.ops.iter().filter(|op| matches!(op, Op::Signal)).count() as u32;
        Some(Plan { algorithm, program, order, runs, local, stage_slots, scratch_slots, signals })
    }

    /// True when ranks of the host order themselves by signals in it.
    pub(crate) fn uses_signals(&self) -> bool {
        self.signals > 0
    }
}

/// Plans made so far. A communicator makes few different calls, many times.
#[derive(Debug)]
pub(crate) struct Plans {
    me: Rank,
    known: HashMap<(Algorithm, Shape), Arc<Plan>>,
}

impl Plans {
    pub(crate) fn new(me: Rank) -> Plans {
        Plans { me, known: HashMap::new() }
    }

    /// The plan for this algorithm and shape; in debug builds the checker proves small worlds' programs first.
    pub(crate) fn get(&mut self, algorithm: Algorithm, shape: &Shape) -> Result<Arc<Plan>> {
        if let Some(plan) = self.known.get(&(algorithm, shape.clone())) {
            return Ok(plan.clone());
        }
        let plan = Plan::new(algorithm, shape, self.me).ok_or_else(|| {
            Error::unsupported(format!("algorithm {} does not do {} here", algorithm.name(), shape.collective))
        })?;
        let plan = Arc::new(plan);
        self.known.insert((algorithm, shape.clone()), plan.clone());
        Ok(plan)
    }
}
