//! From places to commands: which kernels a reduction takes, and how a copy is made.
#![forbid(unsafe_code)]

use super::batch::{Batch, Run, Window};
use super::gpu::{Gpu, QUAD};
use super::kernels::{Element, Kernel, OUTPUTS, Operand, WORKGROUP};
use super::place::Place;
use crate::error::Result;

/// One operand of a reduction: elements, partial results, or a factor.
#[derive(Clone)]
pub(super) struct Leaf {
    what: Operand,
    place: Option<Place>,
}

impl Leaf {
    pub(super) fn elements(place: Place) -> Leaf {
        Leaf { what: Operand::Elements, place: Some(place) }
    }

    pub(super) fn factor() -> Leaf {
        Leaf { what: Operand::Factor, place: None }
    }
}

/// What is done to all elements alike.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rule {
    pub element: Element,
    /// What the sum is divided by, where it is.
    pub divisor: Option<u32>,
    /// The bits of a factor, where there is one among the operands.
    pub factor: u64,
}

/// How many partial results a reduction of so many operands keeps in the arena.
pub(super) fn partials(gpu: &Gpu, operands: usize) -> usize {
    let (mut left, mut kept) = (operands, 0);
    while left > gpu.limits.operands {
        left = left.div_ceil(gpu.limits.operands);
        kept += left;
    }
    kept
}

/// Bytes of the arena that one partial result takes.
pub(super) fn partial_bytes(element: Element, len_bytes: usize) -> usize {
    len_bytes.next_multiple_of(QUAD as usize) * element.partial_quads()
}

/// Reduces into all of `into`. There is room in the arena: one slot for each of `partials`, and one for a result that cannot be
/// made in its place.
///
/// ```text
///   0 1 2 3 4 5 6 7    8 9 10 11 12 13 14 15    16        operands
///   └──── kept ───┘    └────── kept ───────┘     │
///          └───────────────────┴─────────────────┘        parts of the canonical tree, whatever its size
/// ```
pub(super) fn reduce(
    gpu: &Gpu,
    batch: &mut Batch,
    rule: &Rule,
    from: Vec<Leaf>,
    into: &[Place],
    len_bytes: usize,
) -> Result<()> {
    let mut leaves = from;
    while leaves.len() > gpu.limits.operands {
        let mut next = Vec::new();
        for group in leaves.chunks(gpu.limits.operands) {
            if let [one] = group {
                next.push(one.clone());
                continue;
            }
            let place = batch.slot(gpu, partial_bytes(rule.element, len_bytes))?;
            let undivided = Rule { divisor: None, ..*rule };
            run(gpu, batch, Some(&undivided), group, &[&place], true, len_bytes)?;
            next.push(Leaf { what: Operand::Partial, place: Some(place) });
        }
        leaves = next;
    }
    let size = rule.element.dtype.size_bytes() as u64;
    let operands: Vec<&Place> = leaves.iter().filter_map(|leaf| leaf.place.as_ref()).collect();
    // In place, an element that lies in two quads would be changed by one invocation while another still reads it.
    let can_be_made_in =
        |into: &Place| into.at.is_multiple_of(size) || !operands.iter().any(|from| overlap(from, into, len_bytes));
    let most = OUTPUTS.min(gpu.limits.bindings.saturating_sub(operands.len())).max(1);
    let mut together: Vec<&Place> = Vec::new();
    for place in into.iter().filter(|place| can_be_made_in(place)) {
        let fits =
            together.iter().all(|other| other.at % QUAD == place.at % QUAD && !share_quads(other, place, len_bytes));
        if fits && together.len() < most {
            together.push(place);
        }
    }
    let slot = if together.is_empty() { Some(batch.slot(gpu, len_bytes)?) } else { None };
    together.extend(&slot);
    run(gpu, batch, Some(rule), &leaves, &together, false, len_bytes)?;
    for place in into {
        if !together.iter().any(|made| made.buffer == place.buffer && made.at == place.at) {
            copy(gpu, batch, together[0], place, len_bytes)?;
        }
    }
    Ok(())
}

/// Copies; the two are the same place or apart.
pub(super) fn copy(gpu: &Gpu, batch: &mut Batch, from: &Place, into: &Place, len_bytes: usize) -> Result<()> {
    let is_in_words = (from.at | into.at | len_bytes as u64).is_multiple_of(4);
    if from.buffer == into.buffer && from.at == into.at {
        return Ok(());
    }
    if is_in_words && from.buffer != into.buffer {
        batch.copy(from.clone(), into.clone(), len_bytes as u64);
        return Ok(());
    }
    run(gpu, batch, None, &[Leaf::elements(from.clone())], &[into], false, len_bytes)
}

fn overlap(a: &Place, b: &Place, len_bytes: usize) -> bool {
    a.buffer == b.buffer && a.at.abs_diff(b.at) < len_bytes as u64
}

/// Whether two outputs have a quad in common, at their ends: two invocations would write it.
fn share_quads(a: &Place, b: &Place, len_bytes: usize) -> bool {
    let quads = |place: &Place| (place.at / QUAD, (place.at + len_bytes as u64).div_ceil(QUAD));
    let ((a_first, a_end), (b_first, b_end)) = (quads(a), quads(b));
    a.buffer == b.buffer && a_first < b_end && b_first < a_end
}

/// Puts one kernel into the batch.
fn run(
    gpu: &Gpu,
    batch: &mut Batch,
    rule: Option<&Rule>,
    from: &[Leaf],
    into: &[&Place],
    partial: bool,
    len_bytes: usize,
) -> Result<()> {
    let kernel = Kernel {
        element: rule.map(|rule| rule.element),
        operands: from.iter().map(|leaf| leaf.what).collect(),
        outputs: into.len(),
        partial,
        divide: rule.is_some_and(|rule| rule.divisor.is_some()),
    };
    let partial_bytes = rule.map_or(0, |rule| partial_bytes(rule.element, len_bytes));
    let factor = rule.map_or(0, |rule| rule.factor);
    // As `Call` in `reduce.wgsl`.
    let mut call = [0; 16];
    call[0] = len_bytes as u32;
    call[1] = rule.and_then(|rule| rule.divisor).unwrap_or(1);
    call[2..4].copy_from_slice(&[factor as u32, (factor >> 32) as u32]);
    let mut windows = Vec::with_capacity(from.len() + into.len());
    for (k, leaf) in from.iter().enumerate() {
        let Some(place) = &leaf.place else { continue };
        let bytes = if leaf.what == Operand::Partial { partial_bytes } else { len_bytes };
        call[8 + k] = bind(gpu, &mut windows, place, bytes);
    }
    for (k, place) in into.iter().enumerate() {
        call[4 + k] = bind(gpu, &mut windows, place, if partial { partial_bytes } else { len_bytes });
    }
    let shift = if partial { 0 } else { call[4] % QUAD as u32 };
    let quads = (shift + len_bytes as u32).div_ceil(QUAD as u32);
    let program = gpu.programs.get(gpu, &kernel)?;
    batch.run(Run { program, windows, call, groups: quads.div_ceil(WORKGROUP) });
    Ok(())
}

/// Binds the part of a buffer that holds these bytes, and returns where in it they begin. Buffers end with a whole quad.
fn bind(gpu: &Gpu, windows: &mut Vec<Window>, place: &Place, len_bytes: usize) -> u32 {
    let start = place.at - place.at % gpu.limits.alignment;
    let end = (place.at + len_bytes as u64).next_multiple_of(QUAD);
    windows.push(Window { buffer: place.buffer.clone(), start, len_bytes: end - start });
    (place.at - start) as u32
}
