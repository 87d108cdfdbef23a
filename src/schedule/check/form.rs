//! V5 and V7: what can be seen without running anything. Every loc exists and may be used the way it is, the two ends of
//! every transfer agree on its length, and nobody waits for itself.
//!
//! Lengths follow from chunk numbers. The same number means the same length, except in all-to-all, where a length belongs
//! to a *pair* of ranks: chunk `c` of rank i's `Input` is what i has for rank `c / k`, chunk `c` of rank j's `Output` is
//! what j has from rank `c / k`, and in a slot it may be either.
#![forbid(unsafe_code)]

use super::{Call, Rule, Violation};
use crate::schedule::catalogue::Shape;
use crate::schedule::contract::Contract;
use crate::schedule::display::{line, place};
use crate::schedule::hazards::each_access;
use crate::schedule::{Loc, Op, Port, Program, Space};
use crate::types::{Collective, Rank};

/// Checks the form of all programs, and says what the rest of the checker wants to know of the call.
pub(super) fn check<'a>(programs: &[Program], shape: &'a Shape, in_place: &[bool]) -> Result<Call<'a>, Violation> {
    let world = programs.len();
    assert!(world > 0, "a call has a rank");
    assert_eq!(in_place.len(), world, "every rank is in place or is not");
    let mut host_of = vec![usize::MAX; world];
    for (host, ranks) in shape.hosts.iter().enumerate() {
        for &rank in ranks {
            assert!(rank < world && host_of[rank] == usize::MAX, "hosts hold every rank of the {world} once");
            host_of[rank] = host;
        }
    }
    assert!(!host_of.contains(&usize::MAX), "hosts hold every rank of the {world} once");

    let wrong = |rank, what: String| Violation::at_end(Rule::WellFormed, rank, what);
    let chunks = programs[0].chunks;
    let Some(contract) = Contract::new(shape.collective, world, shape.root, shape.peer, chunks) else {
        return Err(wrong(
            0,
            format!("{} cannot cut its buffers into {chunks} chunks for {world} ranks", shape.collective),
        ));
    };
    for (rank, program) in programs.iter().enumerate() {
        let of = |program: &Program| (program.chunks, program.stage_slots, program.scratch_slots);
        if program.rank != rank {
            return Err(wrong(rank, format!("has the program of rank {}", program.rank)));
        }
        if of(program) != of(&programs[0]) {
            let (mine, theirs) = (of(program), of(&programs[0]));
            return Err(wrong(
                rank,
                format!("counts (chunks, stage slots, scratch slots) {mine:?}, rank 0 {theirs:?}"),
            ));
        }
    }
    let signals: Vec<u32> = programs
        .iter()
        .map(|program| program.ops.iter().filter(|op| matches!(op, Op::Signal)).count() as u32)
        .collect();
    for ranks in &shape.hosts {
        if let Some(&odd) = ranks.iter().find(|&&rank| signals[rank] != signals[ranks[0]]) {
            let (mine, first, theirs) = (signals[odd], ranks[0], signals[ranks[0]]);
            return Err(wrong(odd, format!("gives {mine} signals where rank {first} of its host gives {theirs}")));
        }
    }

    let mut form = Form { contract, shape, in_place, host_of, signals, shares_memory: false, links: Vec::new() };
    for program in programs {
        form.program(program)?;
    }
    form.ends_agree(programs)?;
    Ok(Call { contract, shape, shares_memory: form.shares_memory, host_of: form.host_of })
}

/// Calls compare notes when they meet: a program that meets its neighbours at all gives one signal and then waits for
/// the first signal of every one of them, before any other signal or wait.
pub(super) fn entry(program: &Program, call: &Call) -> Result<(), Violation> {
    let me = program.rank;
    let mut meetings =
        program.ops.iter().enumerate().filter(|(_, op)| matches!(op, Op::Signal | Op::Wait { .. })).peekable();
    if meetings.peek().is_none() {
        return Ok(());
    }
    let host = &call.shape.hosts[call.host_of[me]];
    let mut missing: Vec<Rank> = host.iter().copied().filter(|&rank| rank != me).collect();
    let wrong = |at: Option<(usize, &Op)>, missing: &[Rank]| Violation {
        rule: Rule::WellFormed,
        rank: me,
        op: at.map(|(index, op)| (index, op.clone())),
        what: format!("does not begin with one signal and a wait for the first signal of each of {missing:?}"),
    };
    match meetings.next() {
        Some((_, Op::Signal)) => {}
        at => return Err(wrong(at, &missing)),
    }
    while !missing.is_empty() {
        let at = meetings.next();
        let known = match at {
            Some((_, Op::Wait { on, signal: 1 })) => missing.iter().position(|rank| rank == on),
            _ => None,
        };
        match known {
            Some(position) => missing.swap_remove(position),
            None => return Err(wrong(at, &missing)),
        };
    }
    Ok(())
}

struct Form<'a> {
    contract: Contract,
    shape: &'a Shape,
    in_place: &'a [bool],
    host_of: Vec<usize>,
    signals: Vec<u32>,
    shares_memory: bool,
    /// Every transfer's two ends.
    links: Vec<End>,
}

/// One end of a transfer. Sorting brings the sends of a link before its receives, each in their order.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct End {
    from: Rank,
    to: Rank,
    channel: u8,
    receives: bool,
    index: usize,
    length: Length,
}

/// What two locs must share to be equally long: a number, or where a slot could mean either, one of two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Length(u64, u64);

impl Length {
    fn agrees(self, other: Length) -> bool {
        self.0 == other.0 || self.0 == other.1 || self.1 == other.0 || self.1 == other.1
    }
}

impl Form<'_> {
    fn program(&mut self, program: &Program) -> Result<(), Violation> {
        let me = program.rank;
        for (index, op) in program.ops.iter().enumerate() {
            self.op(program, index, op).map_err(|(rule, what)| Violation {
                rule,
                rank: me,
                op: Some((index, op.clone())),
                what,
            })?;
        }
        Ok(())
    }

    fn op(&mut self, program: &Program, index: usize, op: &Op) -> Result<(), (Rule, String)> {
        let me = program.rank;
        let wrong = |what: String| Err((Rule::WellFormed, what));
        let mut found = Ok(());
        each_access(op, |loc, writes| {
            if found.is_ok() {
                found = self.loc(program, loc, writes);
            }
        });
        found?;
        match op {
            Op::Send { to: Port { peer, channel }, from: loc }
            | Op::Recv { from: Port { peer, channel }, into: loc }
            | Op::RecvReduce { from: Port { peer, channel }, into: loc, .. } => {
                if *peer == me || *peer >= self.host_of.len() {
                    return Err((Rule::Abortable, format!("rank {peer} is no peer")));
                }
                if *channel >= self.shape.channels {
                    return wrong(format!("there are {} channels", self.shape.channels));
                }
                let mut foreign = None;
                each_access(op, |loc, _| foreign = foreign.or((loc.rank != me).then_some(loc)));
                if let Some(loc) = foreign {
                    return wrong(format!("a link moves a rank's own memory, not {}", place(me, loc)));
                }
                let receives = !matches!(op, Op::Send { .. });
                let (from, to) = if receives { (*peer, me) } else { (me, *peer) };
                let length = self.length(me, *loc);
                self.links.push(End { from, to, channel: *channel, receives, index, length });
                if let Op::RecvReduce { with, .. } = op
                    && !self.length(me, *with).agrees(length)
                {
                    return wrong("operand and result differ in length".into());
                }
            }
            Op::Copy { from, into } => return self.local(me, std::slice::from_ref(from), into),
            Op::Reduce { from, into, .. } => return self.local(me, from, into),
            Op::Signal => {}
            Op::Wait { on, signal } => {
                if *on == me || self.host_of.get(*on) != Some(&self.host_of[me]) {
                    return Err((Rule::Abortable, format!("rank {on} is not another rank of its host")));
                }
                if *signal == 0 || *signal > self.signals[*on] {
                    return wrong(format!("rank {on} gives signals 1 to {}", self.signals[*on]));
                }
                self.shares_memory = true;
            }
        }
        Ok(())
    }

    /// An op on mapped memory.
    fn local(&mut self, me: Rank, from: &[Loc], into: &[Loc]) -> Result<(), (Rule, String)> {
        let wrong = |what: String| Err((Rule::WellFormed, what));
        let (Some(first), false) = (from.first(), into.is_empty()) else {
            return wrong("moves nothing, or nowhere".into());
        };
        let length = self.length(me, *first);
        for &loc in from.iter().chain(into) {
            if self.host_of[loc.rank] != self.host_of[me] {
                return wrong(format!("{} is on another host", place(me, loc)));
            }
            if !self.length(me, loc).agrees(length) {
                return wrong(format!("{} and {} differ in length", place(me, *first), place(me, loc)));
            }
            self.shares_memory |= loc.rank != me;
        }
        let mut places: Vec<_> = into.iter().map(|loc| loc.place(self.in_place[loc.rank])).collect();
        places.sort_unstable();
        if places.windows(2).any(|pair| pair[0] == pair[1]) {
            return wrong("stores twice to one place".into());
        }
        Ok(())
    }

    /// Whether a loc exists, and may be written if it is.
    fn loc(&self, program: &Program, loc: Loc, writes: bool) -> Result<(), (Rule, String)> {
        let wrong = |what: String| Err((Rule::WellFormed, what));
        let Loc { rank, space, chunk, slot } = loc;
        if rank >= self.host_of.len() {
            return wrong(format!("there is no rank {rank}"));
        }
        let has_output = || self.contract.output(rank, chunk).is_some();
        let exists = match space {
            Space::Input => self.contract.has_input(rank, chunk),
            Space::Output => has_output(),
            Space::Stage => slot < program.stage_slots && chunk < program.chunks,
            Space::Scratch => slot < program.scratch_slots && chunk < program.chunks,
        };
        if !exists || (slot != 0 && matches!(space, Space::Input | Space::Output)) {
            return wrong(format!("{} does not exist", place(program.rank, loc)));
        }
        if space == Space::Scratch && rank != program.rank {
            return wrong(format!("{} is private", place(program.rank, loc)));
        }
        if writes && space == Space::Input && !(self.in_place[rank] && has_output()) {
            return wrong(format!("{} is read only", place(program.rank, loc)));
        }
        Ok(())
    }

    /// What decides the length of a loc that the program of `me` names.
    fn length(&self, me: Rank, loc: Loc) -> Length {
        let chunk = u64::from(loc.chunk);
        match self.shape.collective {
            Collective::Barrier => Length(0, 0),
            Collective::AllToAll => {
                let block = u64::from(self.contract.block());
                let world = self.host_of.len() as u64;
                let pair = |from: u64, to: u64| (from * world + to) * block + chunk % block;
                let (theirs, owner, me) = (chunk / block, loc.rank as u64, me as u64);
                match loc.space {
                    Space::Input => Length(pair(owner, theirs), pair(owner, theirs)),
                    Space::Output => Length(pair(theirs, owner), pair(theirs, owner)),
                    Space::Stage | Space::Scratch => Length(pair(me, theirs), pair(theirs, me)),
                }
            }
            _ => Length(chunk, chunk),
        }
    }

    /// The k-th send and the k-th receive of a link are equally long. (That there are equally many, the run shows.)
    fn ends_agree(&mut self, programs: &[Program]) -> Result<(), Violation> {
        self.links.sort_unstable();
        for link in self.links.chunk_by(|a, b| (a.from, a.to, a.channel) == (b.from, b.to, b.channel)) {
            let (sends, receives) = link.split_at(link.partition_point(|end| !end.receives));
            for (send, receive) in sends.iter().zip(receives) {
                if !send.length.agrees(receive.length) {
                    let op = &programs[receive.to].ops[receive.index];
                    let given = line(send.from, &programs[send.from].ops[send.index], 0);
                    return Err(Violation {
                        rule: Rule::WellFormed,
                        rank: receive.to,
                        op: Some((receive.index, op.clone())),
                        what: format!(
                            "expects another length than rank {}, op {} ({given}) gives",
                            send.from, send.index
                        ),
                    });
                }
            }
        }
        Ok(())
    }
}
