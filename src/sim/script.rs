//! What the ranks of a simulated job do if nothing goes wrong: which calls, with what, and how each rank makes them.
#![forbid(unsafe_code)]

use super::data;
use super::dice::Dice;
use crate::engine::{Call, Counts, Settings};
use crate::memory::Span;
use crate::schedule::catalogue::Algorithm;
use crate::types::{Collective, DType, Rank, ReduceOp, Scalar};
use std::time::Duration;

/// Staging memory of each rank, each half: the least that options allow.
pub(super) const STAGE_BYTES: usize = 64 << 10;

/// One call as all ranks agree on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wish {
    pub(super) collective: Collective,
    pub(super) dtype: DType,
    pub(super) op: Option<ReduceOp>,
    pub(super) root: Rank,
    pub(super) peer: Rank,
    sizes: Sizes,
    /// An all-to-all of equal blocks is in place on all ranks or on none; the others are as each rank likes.
    all_in_place: bool,
    /// Contributions are any bits at all: the result then depends on the order of summing, which must be canonical.
    pub(super) is_rough: bool,
    /// What the contributions follow from.
    pub(super) seed: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Sizes {
    Even(usize),
    Blocks(Vec<usize>),
    /// From each rank (row) to each.
    Exchange(Vec<Vec<usize>>),
}

/// How one rank makes a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    /// Waits for its end before it does anything else.
    Blocking,
    /// Goes on with the next call at once.
    Started,
    /// Starts it together with so many calls that follow, and waits for all.
    Group(usize),
}

/// Why one rank makes other calls than the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Slip {
    Count,
    DType,
    Op,
    Root,
    Collective,
    /// The call is not made at all.
    Skipped,
    /// The rank leaves the job instead of making it.
    Leaves,
}

/// The calls of one communicator's life.
#[derive(Debug, Clone)]
pub(super) struct Script {
    pub(super) hosts: Vec<Vec<Rank>>,
    pub(super) wishes: Vec<Wish>,
    /// A rank that errs, at which call, and how.
    pub(super) slip: Option<(Rank, usize, Slip)>,
    channels: u8,
    algorithm: Option<Algorithm>,
    reproducible: bool,
    /// Results are compared, by calls that follow the calls.
    verifies: bool,
    /// When all calls have ended well the ranks ask each other whether they have.
    pub(super) agrees: bool,
    timeout: Duration,
}

impl Script {
    /// For ranks on these hosts; everything else is drawn. `before`: what they, and others who are gone, were about to do; as
    /// a rule they begin that anew.
    pub(super) fn draw(mut dice: Dice, hosts: Vec<Vec<Rank>>, before: Option<&Script>) -> Script {
        let world = hosts.iter().map(Vec::len).sum();
        let before = before.filter(|_| dice.permille(600));
        let reproducible = before.map_or_else(|| dice.permille(200), |script| script.reproducible);
        let wishes: Vec<Wish> = match before {
            Some(script) => script.wishes.iter().map(|wish| wish.again(&mut dice, world)).collect(),
            None => (0..dice.between(1, 6)).map(|_| Wish::draw(&mut dice, world, reproducible)).collect(),
        };
        let slips = [Slip::Count, Slip::DType, Slip::Op, Slip::Root, Slip::Collective, Slip::Skipped, Slip::Leaves];
        let slip = (world > 1 && dice.permille(150)).then(|| {
            let (who, at) = (dice.below(world), dice.below(wishes.len()));
            let slip = dice.pick(&slips);
            // Whoever leaves out one of two equal calls is not found out by the other.
            let distinct = |rest: &[Wish]| {
                (1..rest.len()).all(|later| rest[..later].iter().all(|wish| wish.collective != rest[later].collective))
            };
            (who, at, if slip == Slip::Skipped && !distinct(&wishes[at..]) { Slip::Collective } else { slip })
        });
        Script {
            hosts,
            wishes,
            slip,
            channels: before.map_or_else(|| dice.between(1, 3) as u8, |script| script.channels),
            algorithm: match before {
                Some(script) => script.algorithm,
                // With reproducible sums a wish may be impossible, which is an error of its own.
                None => (!reproducible && dice.permille(600)).then(|| dice.pick(&Algorithm::ALL)),
            },
            reproducible,
            verifies: dice.permille(150),
            agrees: dice.permille(400),
            timeout: Duration::from_millis(dice.pick(&[3000, 5000, 9000])),
        }
    }

    pub(super) fn world(&self) -> usize {
        self.hosts.iter().map(Vec::len).sum()
    }

    /// As the engine of one rank has them.
    pub(super) fn settings(&self, me: Rank, epoch: u32) -> Settings {
        Settings {
            me,
            hosts: self.hosts.clone(),
            epoch,
            channels: Some(self.channels),
            wish: self.algorithm,
            slice_bytes: None,
            table: None,
            reproducible: self.reproducible,
            verifies: self.verifies,
            timeout: self.timeout,
            meeting_timeout: self.timeout,
            digest: self.algorithm.map_or(0, |algorithm| algorithm as u64 + 1),
            stage_bytes: STAGE_BYTES,
        }
    }

    /// The longest that a call may take.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// What `rank` does for the `index`-th call: `None` where it takes no part.
    pub(super) fn part(&self, index: usize, rank: Rank) -> Option<Wish> {
        let mut wish = self.wishes[index].clone();
        match self.slip.filter(|(who, _, _)| *who == rank) {
            Some((_, at, Slip::Leaves)) if index >= at => return None,
            Some((_, at, Slip::Skipped)) if index == at => return None,
            Some((_, at, slip)) if index == at && wish.takes_part(rank) => wish.spoil(slip, self.world()),
            _ => {}
        }
        wish.takes_part(rank).then_some(wish)
    }

    /// True where the part that `rank` has in a call differs from what was agreed.
    pub(super) fn errs(&self, index: usize, rank: Rank) -> bool {
        self.part(index, rank) != Some(self.wishes[index].clone()).filter(|wish| wish.takes_part(rank))
    }
}

impl Wish {
    fn draw(dice: &mut Dice, world: usize, reproducible: bool) -> Wish {
        let collective = loop {
            let collective = dice.pick(&Collective::ALL);
            if world > 1 || collective != Collective::SendRecv {
                break collective;
            }
        };
        let dtype = dice.pick(&DType::ALL);
        let ops = {
            use ReduceOp::*;
            [Sum, Prod, Max, Min, Avg, BitAnd, BitOr, BitXor, PreMulSum(Scalar { bits: 0, dtype })]
        };
        let op = loop {
            let op = dice.pick(&ops);
            if op.accepts(dtype) {
                break op;
            }
        };
        let root = dice.below(world);
        let peer = (root + 1 + dice.below(world.max(2) - 1)) % world;
        let count = |dice: &mut Dice| match dice.below(48) {
            0..=5 => 0,
            6..=11 => 1,
            // More than staging memory takes at once.
            12 => dice.below(8000),
            13..=18 => dice.below(700),
            _ => dice.below(90),
        };
        let sizes = match (collective, dice.below(3)) {
            (Collective::AllGather | Collective::ReduceScatter, 0) => {
                Sizes::Blocks((0..world).map(|_| count(dice)).collect())
            }
            (Collective::AllToAll, 0) => {
                Sizes::Exchange((0..world).map(|_| (0..world).map(|_| count(dice)).collect()).collect())
            }
            (Collective::Barrier, _) => Sizes::Even(0),
            _ => Sizes::Even(count(dice)),
        };
        Wish {
            collective,
            dtype,
            op: collective.reduces().then_some(op),
            root,
            peer,
            sizes,
            all_in_place: dice.permille(300),
            is_rough: reproducible,
            seed: dice.next(),
        }
    }

    /// The same among `world` ranks, with other numbers.
    fn again(&self, dice: &mut Dice, world: usize) -> Wish {
        if world == 1 && self.collective == Collective::SendRecv {
            return Wish::draw(dice, world, self.is_rough);
        }
        let row = |counts: &[usize]| counts.iter().copied().cycle().take(world).collect::<Vec<_>>();
        let sizes = match &self.sizes {
            Sizes::Even(count) => Sizes::Even(*count),
            Sizes::Blocks(counts) => Sizes::Blocks(row(counts)),
            Sizes::Exchange(rows) => {
                Sizes::Exchange(rows.iter().map(|counts| row(counts)).cycle().take(world).collect())
            }
        };
        let root = self.root % world;
        let peer = if self.peer < world && self.peer != root { self.peer } else { (root + 1) % world };
        Wish { root, peer, sizes, seed: dice.next(), ..self.clone() }
    }

    /// Makes it another call, in a way that shows.
    fn spoil(&mut self, slip: Slip, world: usize) {
        match slip {
            Slip::Count if self.collective != Collective::Barrier => match &mut self.sizes {
                Sizes::Even(count) => *count += 1,
                Sizes::Blocks(counts) => counts[0] += 1,
                Sizes::Exchange(_) => self.collective = Collective::AllReduce,
            },
            Slip::DType if self.collective != Collective::Barrier => {
                self.dtype = if self.dtype == DType::F32 { DType::F64 } else { DType::F32 };
            }
            Slip::Op if self.collective.reduces() => {
                self.op = Some(if self.op == Some(ReduceOp::Max) { ReduceOp::Min } else { ReduceOp::Max });
            }
            Slip::Root if self.collective.has_root() => self.root = (self.root + 1) % world,
            _ => {
                self.collective = match self.collective {
                    Collective::Broadcast => Collective::AllReduce,
                    _ => Collective::Broadcast,
                }
            }
        }
        if self.collective != Collective::AllToAll && matches!(self.sizes, Sizes::Exchange(_)) {
            self.sizes = Sizes::Even(3);
        }
        let takes_blocks = matches!(self.collective, Collective::AllGather | Collective::ReduceScatter);
        if !takes_blocks && matches!(self.sizes, Sizes::Blocks(_)) {
            self.sizes = Sizes::Even(3);
        }
        let op = self.op.filter(|op| op.accepts(self.dtype)).unwrap_or(ReduceOp::Max);
        self.op = self.collective.reduces().then_some(op);
    }

    fn takes_part(&self, rank: Rank) -> bool {
        self.collective != Collective::SendRecv || rank == self.root || rank == self.peer
    }

    /// The call's counts as `rank` gives them.
    pub(super) fn counts_of(&self, rank: Rank) -> Counts {
        match &self.sizes {
            Sizes::Even(count) => Counts::Even(*count),
            Sizes::Blocks(counts) => Counts::Blocks(counts.clone()),
            Sizes::Exchange(rows) => {
                Counts::Exchange { send: rows[rank].clone(), recv: rows.iter().map(|row| row[rank]).collect() }
            }
        }
    }

    /// The call of one rank, without its buffers.
    pub(super) fn call(&self, rank: Rank) -> Call {
        Call {
            collective: self.collective,
            dtype: self.dtype,
            op: data::op_of(self, rank),
            root: self.root,
            peer: self.peer,
            counts: self.counts_of(rank),
            input: Span::EMPTY,
            output: Span::EMPTY,
        }
    }

    pub(super) fn input_bytes(&self, rank: Rank, world: usize) -> usize {
        self.call(rank).sizes(rank, world).expect("counts that were drawn are possible").input_bytes
    }

    pub(super) fn output_bytes(&self, rank: Rank, world: usize) -> usize {
        self.call(rank).sizes(rank, world).expect("counts that were drawn are possible").output_bytes
    }

    /// Where the output begins when `rank` makes the call in place, relative to where the input does; `None` where it
    /// cannot.
    pub(super) fn in_place_offset(&self, rank: Rank) -> Option<isize> {
        let size = self.dtype.size_bytes();
        let before = || match self.counts_of(rank) {
            Counts::Even(count) => (rank * count * size) as isize,
            Counts::Blocks(counts) => (counts[..rank].iter().sum::<usize>() * size) as isize,
            Counts::Exchange { .. } => 0,
        };
        match self.collective {
            Collective::ReduceScatter | Collective::Scatter => Some(before()),
            Collective::AllGather | Collective::Gather => Some(-before()),
            Collective::AllToAll => (matches!(self.sizes, Sizes::Even(_)) && self.all_in_place).then_some(0),
            _ => Some(0),
        }
    }

    /// In place is not for each rank to choose.
    pub(super) fn is_in_place_everywhere(&self) -> bool {
        self.collective == Collective::AllToAll && self.all_in_place && matches!(self.sizes, Sizes::Even(_))
    }
}

impl Manner {
    pub(super) fn draw(dice: &mut Dice) -> Manner {
        match dice.below(4) {
            0 => Manner::Started,
            1 => Manner::Group(dice.below(3)),
            _ => Manner::Blocking,
        }
    }
}
