//! Every collective in every form, one function each: makes the buffers, makes the call, and checks output, input and
//! what lies around them.

use crate::numbers::{Data, contributions, own, parcel, reduction};
use crate::room::{Home, Room};
use roundel::memory::Span;
use roundel::{Call, Collective, Communicator, Counts, Element, Rank, ReduceOp};
use std::fmt::{Display, Formatter, Result};

/// How to make a call. What must be alike on all ranks is; where buffers are, and in place or not, is this rank's own.
#[derive(Clone, Copy)]
pub struct Case<'a> {
    pub comm: &'a Communicator,
    pub count: usize,
    pub root: Rank,
    pub data: Data,
    pub input: Home,
    pub output: Home,
    /// Input starts so many elements off.
    pub shift: usize,
    pub in_place: bool,
}

impl<'a> Case<'a> {
    /// Root 0, on the heap, out of place.
    pub fn new(comm: &'a Communicator, count: usize) -> Case<'a> {
        let home = Home::Heap;
        Case { comm, count, root: 0, data: Data::Exact, input: home, output: home, shift: 0, in_place: false }
    }

    fn me(&self) -> Rank {
        self.comm.rank()
    }

    fn world(&self) -> usize {
        self.comm.world()
    }

    fn is_root(&self) -> bool {
        self.me() == self.root
    }

    fn holding<T: Element>(&self, contents: &[T]) -> Room<T> {
        Room::new(self.comm, self.input, self.shift, contents)
    }

    fn stale<T: Element>(&self, count: usize) -> Room<T> {
        Room::stale(self.comm, self.output, 1 - self.shift % 2, count)
    }

    fn say<T: Element>(&self, what: &'static str, op: Option<ReduceOp>) -> What<'a> {
        What { case: *self, what, op, dtype: T::DTYPE.name() }
    }
}

/// Names the call in messages.
struct What<'a> {
    case: Case<'a>,
    what: &'static str,
    op: Option<ReduceOp>,
    dtype: &'static str,
}

impl Display for What<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let Case { comm, count, root, data, input, output, shift, in_place } = self.case;
        let op = self.op.map_or("", ReduceOp::name);
        write!(
            f,
            "{} {op} {} x {count}, rank {} of {}, root {root}, {data:?}, {input:?} to {output:?}, shift {shift}, in place: \
             {in_place}, {}, algorithm {:?}",
            self.what,
            self.dtype,
            comm.rank(),
            comm.world(),
            comm.transport(),
            comm.options().algorithm,
        )
    }
}

/// All collectives, the reducing ones with `op`.
pub fn all<T: Element>(case: &Case, op: ReduceOp) {
    reducing::<T>(case, op);
    moving::<T>(case);
}

/// All collectives that reduce.
pub fn reducing<T: Element>(case: &Case, op: ReduceOp) {
    all_reduce::<T>(case, op);
    reduce::<T>(case, op);
    reduce_scatter::<T>(case, op);
    reduce_scatter_v::<T>(case, op);
}

/// All collectives that only move data.
pub fn moving<T: Element>(case: &Case) {
    broadcast::<T>(case);
    all_gather::<T>(case);
    gather::<T>(case);
    scatter::<T>(case);
    all_to_all::<T>(case);
    all_gather_v::<T>(case);
    all_to_all_v::<T>(case);
    case.comm.barrier().unwrap();
}

pub fn all_reduce<T: Element>(case: &Case, op: ReduceOp) {
    let what = case.say::<T>("all_reduce", Some(op));
    let mine: Vec<T> = contributions(case.data, op, case.me(), 0..case.count);
    let wanted: Vec<T> = reduction(case.data, op, case.world(), 0..case.count);
    let own = own::<T>(op, case.data, case.me());
    let mut input = case.holding(&mine);
    if case.in_place {
        case.comm.all_reduce_in_place(&mut input, own).unwrap();
        return input.expect(&wanted, &what);
    }
    let mut output = case.stale(case.count);
    case.comm.all_reduce(&input, &mut output, own).unwrap();
    output.expect(&wanted, &what);
    input.expect(&mine, &what);
}

pub fn reduce<T: Element>(case: &Case, op: ReduceOp) {
    let what = case.say::<T>("reduce", Some(op));
    let mine: Vec<T> = contributions(case.data, op, case.me(), 0..case.count);
    let wanted: Vec<T> = reduction(case.data, op, case.world(), 0..case.count);
    let own = own::<T>(op, case.data, case.me());
    let mut input = case.holding(&mine);
    if case.in_place && case.is_root() {
        let span = input.span(0, case.count);
        case.comm.run(&call::<T>(case, Collective::Reduce, Some(own), Counts::Even(case.count), span, span)).unwrap();
        return input.expect(&wanted, &what);
    }
    // Elsewhere than at the root the output is ignored: a full one and none at all are alike.
    let mut output = case.stale(if case.is_root() || case.shift == 1 { case.count } else { 0 });
    let before = output.to_vec();
    case.comm.reduce(&input, &mut output, own, case.root).unwrap();
    output.expect(if case.is_root() { &wanted } else { &before }, &what);
    input.expect(&mine, &what);
}

pub fn reduce_scatter<T: Element>(case: &Case, op: ReduceOp) {
    reduce_scatter_blocks::<T>(case, op, &vec![case.count; case.world()], false);
}

pub fn reduce_scatter_v<T: Element>(case: &Case, op: ReduceOp) {
    for counts in uneven(case) {
        reduce_scatter_blocks::<T>(case, op, &counts, true);
    }
}

fn reduce_scatter_blocks<T: Element>(case: &Case, op: ReduceOp, counts: &[usize], v: bool) {
    let what = case.say::<T>(if v { "reduce_scatter_v" } else { "reduce_scatter" }, Some(op));
    let whole: usize = counts.iter().sum();
    let start: usize = counts[..case.me()].iter().sum();
    let mine: Vec<T> = contributions(case.data, op, case.me(), 0..whole);
    let wanted: Vec<T> = reduction(case.data, op, case.world(), start..start + counts[case.me()]);
    let own = own::<T>(op, case.data, case.me());
    let mut input = case.holding(&mine);
    if case.in_place {
        if v {
            let (from, into) = (input.span(0, whole), input.span(start, wanted.len()));
            let counts = Counts::Blocks(counts.to_vec());
            case.comm.run(&call::<T>(case, Collective::ReduceScatter, Some(own), counts, from, into)).unwrap();
        } else {
            case.comm.reduce_scatter_in_place(&mut input, own).unwrap();
        }
        let mut after = mine;
        after[start..start + wanted.len()].copy_from_slice(&wanted);
        return input.expect(&after, &what);
    }
    let mut output = case.stale(wanted.len());
    match v {
        true => case.comm.reduce_scatter_v(&input, &mut output, counts, own).unwrap(),
        false => case.comm.reduce_scatter(&input, &mut output, own).unwrap(),
    }
    output.expect(&wanted, &what);
    input.expect(&mine, &what);
}

pub fn broadcast<T: Element>(case: &Case) {
    let what = case.say::<T>("broadcast", None);
    let wanted: Vec<T> = parcel(case.root, 0, case.count);
    let mut data = match case.is_root() {
        true => case.holding(&wanted),
        false => case.stale(case.count),
    };
    if case.is_root() && !case.in_place {
        let mut output = case.stale(case.count);
        let (from, into) = (data.span(0, case.count), output.span(0, case.count));
        case.comm.run(&call::<T>(case, Collective::Broadcast, None, Counts::Even(case.count), from, into)).unwrap();
        output.expect(&wanted, &what);
    } else {
        case.comm.broadcast(&mut data, case.root).unwrap();
    }
    data.expect(&wanted, &what);
}

pub fn all_gather<T: Element>(case: &Case) {
    gather_blocks::<T>(case, Collective::AllGather, &vec![case.count; case.world()], false);
}

pub fn all_gather_v<T: Element>(case: &Case) {
    for counts in uneven(case) {
        gather_blocks::<T>(case, Collective::AllGather, &counts, true);
    }
}

pub fn gather<T: Element>(case: &Case) {
    gather_blocks::<T>(case, Collective::Gather, &vec![case.count; case.world()], false);
}

fn gather_blocks<T: Element>(case: &Case, collective: Collective, counts: &[usize], v: bool) {
    let what = case.say::<T>(if v { "all_gather_v" } else { collective.name() }, None);
    let blocks: Vec<Vec<T>> = counts.iter().enumerate().map(|(rank, &count)| parcel(rank, 0, count)).collect();
    let (mine, wanted) = (blocks[case.me()].clone(), blocks.concat());
    let start: usize = counts[..case.me()].iter().sum();
    let gets = collective == Collective::AllGather || case.is_root();
    if case.in_place && gets {
        let mut data = case.stale(wanted.len());
        data[start..start + mine.len()].copy_from_slice(&mine);
        if !v && collective == Collective::AllGather {
            case.comm.all_gather_in_place(&mut data).unwrap();
        } else {
            let counts = if v { Counts::Blocks(counts.to_vec()) } else { Counts::Even(case.count) };
            let (from, into) = (data.span(start, mine.len()), data.span(0, wanted.len()));
            case.comm.run(&call::<T>(case, collective, None, counts, from, into)).unwrap();
        }
        return data.expect(&wanted, &what);
    }
    let mut input = case.holding(&mine);
    let mut output = case.stale(if gets { wanted.len() } else { 0 });
    match (collective, v) {
        (Collective::Gather, _) => case.comm.gather(&input, &mut output, case.root).unwrap(),
        (_, true) => case.comm.all_gather_v(&input, &mut output, counts).unwrap(),
        (_, false) => case.comm.all_gather(&input, &mut output).unwrap(),
    }
    output.expect(if gets { &wanted } else { &[] }, &what);
    input.expect(&mine, &what);
}

pub fn scatter<T: Element>(case: &Case) {
    let what = case.say::<T>("scatter", None);
    let blocks: Vec<Vec<T>> = (0..case.world()).map(|rank| parcel(case.root, rank, case.count)).collect();
    let (wanted, whole) = (blocks[case.me()].clone(), blocks.concat());
    let mut input = case.holding(if case.is_root() { &whole } else { &[] });
    if case.in_place && case.is_root() {
        let (from, into) = (input.span(0, whole.len()), input.span(case.me() * case.count, case.count));
        case.comm.run(&call::<T>(case, Collective::Scatter, None, Counts::Even(case.count), from, into)).unwrap();
        return input.expect(&whole, &what);
    }
    let mut output = case.stale(case.count);
    case.comm.scatter(&input, &mut output, case.root).unwrap();
    output.expect(&wanted, &what);
    input.expect(if case.is_root() { &whole } else { &[] }, &what);
}

/// In place on all ranks or on none: here they must agree.
pub fn all_to_all<T: Element>(case: &Case) {
    let what = case.say::<T>("all_to_all", None);
    let sent: Vec<T> = (0..case.world()).flat_map(|to| parcel(case.me(), to, case.count)).collect();
    let wanted: Vec<T> = (0..case.world()).flat_map(|from| parcel(from, case.me(), case.count)).collect();
    let mut input = case.holding(&sent);
    if case.root % 2 == 1 {
        case.comm.all_to_all_in_place(&mut input).unwrap();
        return input.expect(&wanted, &what);
    }
    let mut output = case.stale(wanted.len());
    case.comm.all_to_all(&input, &mut output).unwrap();
    output.expect(&wanted, &what);
    input.expect(&sent, &what);
}

pub fn all_to_all_v<T: Element>(case: &Case) {
    let what = case.say::<T>("all_to_all_v", None);
    // Symmetric counts can be exchanged in place, by some ranks or by all; and rank 0 may have nothing to exchange.
    let symmetric = case.root % 2 == 1;
    let count = |from: usize, to: usize| match (symmetric, (from * 3 + to) % 4, (from + to) % 4) {
        (false, 2, _) | (true, _, 2) => 0,
        (true, ..) if case.count == 1 && from.min(to) == 0 => 0,
        (false, ..) => case.count.div_ceil(2) + from * 5 + to * 2,
        (true, ..) => case.count.div_ceil(2) + from + to,
    };
    let (me, ranks) = (case.me(), 0..case.world());
    let send: Vec<usize> = ranks.clone().map(|to| count(me, to)).collect();
    let recv: Vec<usize> = ranks.clone().map(|from| count(from, me)).collect();
    let sent: Vec<T> = ranks.clone().flat_map(|to| parcel(me, to, send[to])).collect();
    let wanted: Vec<T> = ranks.flat_map(|from| parcel(from, me, recv[from])).collect();
    let mut input = case.holding(&sent);
    if symmetric && case.in_place {
        let span = input.span(0, sent.len());
        case.comm
            .run(&call::<T>(case, Collective::AllToAll, None, Counts::Exchange { send, recv }, span, span))
            .unwrap();
        return input.expect(&wanted, &what);
    }
    let mut output = case.stale(wanted.len());
    case.comm.all_to_all_v(&input, &send, &mut output, &recv).unwrap();
    output.expect(&wanted, &what);
    input.expect(&sent, &what);
}

/// Lengths of blocks: all different with some empty; and all with one rank.
fn uneven(case: &Case) -> [Vec<usize>; 2] {
    let ranks = 0..case.world();
    let ragged = ranks.clone().map(|rank| if rank % 3 == 1 { 0 } else { case.count + 2 * rank }).collect();
    let lone = ranks.map(|rank| if rank == case.root { case.count } else { 0 }).collect();
    [ragged, lone]
}

fn call<T: Element>(
    case: &Case,
    collective: Collective,
    op: Option<ReduceOp>,
    counts: Counts,
    input: Span,
    output: Span,
) -> Call {
    Call { collective, dtype: T::DTYPE, op, root: case.root, peer: 0, counts, input, output }
}
