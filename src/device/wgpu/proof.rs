//! Whether an adapter computes what it should: found out, not believed.
//!
//! WGSL lets an adapter flush subnormals to zero, round quotients loosely and forget about NaN. So before an element type and
//! operation are used for the first time on an adapter, they are tried there: all pairs of the values at which something
//! happens, many operands at once, and what the host makes of them. First with the adapter's own f32 arithmetic, then with the
//! kernels' integer version of it; what fails both ways is done by the host.
#![forbid(unsafe_code)]

use super::gpu::Gpu;
use super::host_block::HostBlock;
use super::kernels::Join;
use super::line::{Line, Trust};
use crate::device::Queue;
use crate::device::host::{self, Fold, Store};
use crate::device::samples::{Noise, elements, special};
use crate::error::Result;
use crate::memory::Span;
use crate::types::{DType, ReduceOp};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

/// What computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// The device; f32 by the adapter's own arithmetic, or in integers.
    Device { native: bool },
    /// The host, on copies.
    Host,
}

/// What was found out.
#[derive(Debug, Default)]
pub(super) struct Proofs(Mutex<HashMap<(DType, Join, bool), Way>>);

impl Proofs {
    /// What computes this; finding out takes a moment, once.
    pub(super) fn way(&self, gpu: &Arc<Gpu>, dtype: DType, join: Join, divide: bool) -> Result<Way> {
        let arithmetic = matches!(join, Join::Sum | Join::Prod);
        if dtype == DType::F64 && arithmetic {
            return Ok(Way::Host);
        }
        // Held meanwhile: other ranks of the process are about to ask the same.
        let mut known = self.0.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(way) = known.get(&(dtype, join, divide)) {
            return Ok(*way);
        }
        let candidates: &[bool] = if dtype.is_integer() || !arithmetic { &[true] } else { &[true, false] };
        let mut way = Way::Host;
        for &native in candidates {
            if is_right(gpu, dtype, join, divide, native)? {
                way = Way::Device { native };
                break;
            }
        }
        let divided = if divide { ", divided" } else { "" };
        match way {
            Way::Device { native: true } => {}
            Way::Device { native: false } => {
                tracing::info!(
                    device = gpu.name,
                    "{dtype} {join:?}{divided}: in integers, its own arithmetic is not IEEE 754 throughout"
                );
            }
            Way::Host => tracing::warn!(
                device = gpu.name,
                "{dtype} {join:?}{divided}: not right to the last bit; the host does it"
            ),
        }
        known.insert((dtype, join, divide), way);
        Ok(way)
    }
}

#[cfg(test)]
impl Proofs {
    /// What was tried and is left to the host.
    pub(super) fn failed(&self) -> Vec<(DType, Join, bool)> {
        let known = self.0.lock().unwrap();
        known.iter().filter(|(_, way)| **way == Way::Host).map(|(what, _)| *what).collect()
    }
}

/// Operands of the trial that looks at the order of additions: a tree that is not the same from both sides.
const MANY: usize = 5;
/// Elements of that trial.
const LENGTH: usize = 1000;

/// Whether the device gives the same bits as the host.
pub(super) fn is_right(gpu: &Arc<Gpu>, dtype: DType, join: Join, divide: bool, native: bool) -> Result<bool> {
    let op = match join {
        Join::Sum if divide => ReduceOp::Avg,
        Join::Sum => ReduceOp::Sum,
        Join::Prod => ReduceOp::Prod,
        Join::Max => ReduceOp::Max,
        Join::Min => ReduceOp::Min,
        Join::And => ReduceOp::BitAnd,
        Join::Or => ReduceOp::BitOr,
        Join::Xor => ReduceOp::BitXor,
    };
    let worlds: &[u32] = if divide { &[2, 3, 0x0100_0001, u32::MAX] } else { &[2] };
    let pairs = pairs(dtype);
    let mut noise = Noise(1);
    let many: Vec<HostBlock> = (0..MANY).map(|_| HostBlock::holding(&elements(dtype, LENGTH, &mut noise))).collect();
    for &world in worlds {
        for operands in [&pairs[..], &many[..]] {
            let from: Vec<Span> = operands.iter().map(HostBlock::span).collect();
            let (ours, theirs) = (HostBlock::new(from[0].len()), HostBlock::new(from[0].len()));
            let fold = Fold::new(dtype, op, world);
            host::reduce(&fold, true, &from, &[ours.span()], Store::Cached);
            let mut line = Line::new(Arc::clone(gpu), Trust::Try { native });
            line.reduce(&fold, true, &from, &[theirs.span()])?;
            line.drain()?;
            if ours.bytes() != theirs.bytes() {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// Two operands whose elements are all the pairs of special values.
fn pairs(dtype: DType) -> [HostBlock; 2] {
    let size = dtype.size_bytes();
    let values = special(dtype);
    let (mut left, mut right) = (Vec::new(), Vec::new());
    for a in &values {
        for b in &values {
            left.extend_from_slice(&a.to_le_bytes()[..size]);
            right.extend_from_slice(&b.to_le_bytes()[..size]);
        }
    }
    [left, right].map(|bytes| HostBlock::holding(&bytes))
}
