//! Programs as text: one rank's ops line by line ([`Display`](fmt::Display) of a [`Program`]), or all ranks side by
//! side, step by step ([`steps`]).
//!
//! A piece of data is written as its place and, in brackets, its chunk: `in[3]`, `out[3]`; slots have their number in
//! front of that: `stage1[3]` is slot 1 of the staging memory, holding data of chunk 3, `priv0[3]` a private slot. What
//! belongs to another rank says so: `2:in[3]`. `= all` marks the place where a sum has every rank's contribution.
#![forbid(unsafe_code)]

use std::collections::{HashMap, VecDeque};
use std::fmt::{self, Write};

use super::hazards::{Fence, hazards};
use super::{Loc, Op, Port, Program, Space};
use crate::types::Rank;

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rank {}: {}", self.rank, counted(self.chunks, "chunk"))?;
        if self.stage_slots > 0 {
            write!(f, ", {}", counted(self.stage_slots, "stage slot"))?;
        }
        if self.scratch_slots > 0 {
            write!(f, ", {}", counted(self.scratch_slots, "private slot"))?;
        }
        let mut signals = 0;
        for (index, op) in self.ops.iter().enumerate() {
            signals += u32::from(*op == Op::Signal);
            write!(f, "\n{index:4}  {}", line(self.rank, op, signals))?;
        }
        Ok(())
    }
}

fn counted(count: u32, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// One op of rank `me`; a signal is numbered by how many the rank has given with it.
pub(super) fn line(me: Rank, op: &Op, signals: u32) -> String {
    let place = |loc: &Loc| place(me, *loc);
    let places = |locs: &[Loc], between: &str| locs.iter().map(place).collect::<Vec<_>>().join(between);
    let all = |last: bool| if last { " = all" } else { "" };
    match op {
        Op::Send { to, from } => format!("send   {} -> {}", place(from), far_end(to)),
        Op::Recv { from, into } => format!("recv   {} <- {}", place(into), far_end(from)),
        Op::RecvReduce { from, with, into, last } => {
            format!("fold   {} <- {} + {}{}", place(into), place(with), far_end(from), all(*last))
        }
        Op::Copy { from, into } => format!("copy   {} -> {}", place(from), places(into, ", ")),
        Op::Reduce { from, into, last } => {
            format!("reduce {} -> {}{}", places(from, " + "), places(into, ", "), all(*last))
        }
        Op::Signal => format!("signal {signals}"),
        Op::Wait { on, signal } => format!("wait   rank {on} signal {signal}"),
    }
}

/// A piece of data as rank `me` calls it.
pub(super) fn place(me: Rank, loc: Loc) -> String {
    let owner = if loc.rank == me { String::new() } else { format!("{}:", loc.rank) };
    match loc.space {
        Space::Input => format!("{owner}in[{}]", loc.chunk),
        Space::Output => format!("{owner}out[{}]", loc.chunk),
        Space::Stage => format!("{owner}stage{}[{}]", loc.slot, loc.chunk),
        Space::Scratch => format!("{owner}priv{}[{}]", loc.slot, loc.chunk),
    }
}

fn far_end(port: &Port) -> String {
    format!("rank {} ch {}", port.peer, port.channel)
}

/// All ranks of a call side by side, a column each (so: for small worlds). A row is a step: a receive stands in the row
/// of its send, a wait in that of its signal, and what needs their data stands below. What can never run comes last.
pub fn steps(programs: &[Program]) -> String {
    let (levels, depth) = levels(programs);
    let mut cells = vec![vec![Vec::new(); programs.len()]; depth + 1];
    for (column, (program, levels)) in programs.iter().zip(&levels).enumerate() {
        let mut signals = 0;
        for (index, op) in program.ops.iter().enumerate() {
            signals += u32::from(*op == Op::Signal);
            let row = levels.get(index).copied().unwrap_or(depth);
            cells[row][column].push(line(program.rank, op, signals));
        }
    }
    let headings = programs.iter().map(|program| format!("rank {}", program.rank));
    let widths: Vec<usize> = headings
        .clone()
        .enumerate()
        .map(|(column, heading)| {
            let ops = cells.iter().flat_map(|row| &row[column]).map(String::len);
            ops.chain([heading.len()]).max().unwrap_or(0)
        })
        .collect();

    let mut picture = String::new();
    let mut put = |first: &str, columns: &[&str]| {
        let mut row = format!("{first:<6}");
        for (text, width) in columns.iter().zip(&widths) {
            // Writing to a string cannot fail.
            let _ = write!(row, "| {text:<width$} ");
        }
        picture.push_str(row.trim_end());
        picture.push('\n');
    };
    let headings: Vec<String> = headings.collect();
    put("step", &headings.iter().map(String::as_str).collect::<Vec<_>>());
    for (step, row) in cells.iter().enumerate() {
        let name = if step == depth { "never".to_owned() } else { (step + 1).to_string() };
        for index in 0..row.iter().map(Vec::len).max().unwrap_or(0) {
            let columns: Vec<&str> = row.iter().map(|cell| cell.get(index).map_or("", String::as_str)).collect();
            put(if index == 0 { &name } else { "" }, &columns);
        }
    }
    picture
}

/// For every rank the step of each of its ops, as far as they ever run, and the number of steps. Runs the programs with
/// links that hold everything.
fn levels(programs: &[Program]) -> (Vec<Vec<usize>>, usize) {
    let orders: Vec<_> = programs.iter().map(|program| hazards(program, false)).collect();
    let mut levels: Vec<Vec<usize>> = vec![Vec::new(); programs.len()];
    let mut in_links: HashMap<(Rank, Rank, u8), VecDeque<usize>> = HashMap::new();
    let mut signals: HashMap<Rank, Vec<usize>> = HashMap::new();
    let mut moved = true;
    while std::mem::take(&mut moved) {
        for ((program, order), done) in programs.iter().zip(&orders).zip(&mut levels) {
            let me = program.rank;
            while let Some(op) = program.ops.get(done.len()) {
                let index = done.len();
                let next_to = order.behind(index).iter().map(|&before| done[before as usize]).max();
                let after = next_to.map(|level| level + 1);
                let fence = match order.fence(index) {
                    Fence::After(wait) => Some(done[wait as usize] + 1),
                    Fence::Free | Fence::AfterAll => None,
                };
                let after = after.max(fence).unwrap_or(0);
                let level = match op {
                    Op::Send { to, .. } => {
                        in_links.entry((me, to.peer, to.channel)).or_default().push_back(after);
                        Some(after)
                    }
                    Op::Recv { from, .. } | Op::RecvReduce { from, .. } => in_links
                        .get_mut(&(from.peer, me, from.channel))
                        .and_then(VecDeque::pop_front)
                        .map(|sent| sent.max(next_to.unwrap_or(0)).max(fence.unwrap_or(0))),
                    Op::Copy { .. } | Op::Reduce { .. } => Some(after),
                    Op::Signal => {
                        let level = done.iter().copied().max().unwrap_or(0);
                        signals.entry(me).or_default().push(level);
                        Some(level)
                    }
                    Op::Wait { on, signal } => {
                        let given = signals.get(on).and_then(|given| given.get((*signal as usize).checked_sub(1)?));
                        given.map(|&level| level.max(done.last().copied().unwrap_or(0)))
                    }
                };
                let Some(level) = level else { break };
                done.push(level);
                moved = true;
            }
        }
    }
    let depth = levels.iter().flatten().max().map_or(0, |deepest| deepest + 1);
    (levels, depth)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::catalogue::{Algorithm, Shape, program};
    use crate::types::Collective;

    fn all(algorithm: Algorithm, shape: Shape) -> Vec<Program> {
        (0..shape.world()).map(|me| program(algorithm, &shape, me).unwrap()).collect()
    }

    #[test]
    fn one_rank() {
        insta::assert_snapshot!(all(Algorithm::Ring, Shape::apart(Collective::AllReduce, 3))[1], @r"
        rank 1: 3 chunks
           0  send   in[0] -> rank 2 ch 0
           1  fold   out[2] <- in[2] + rank 0 ch 0
           2  send   out[2] -> rank 2 ch 0
           3  fold   out[1] <- in[1] + rank 0 ch 0 = all
           4  send   out[1] -> rank 2 ch 0
           5  recv   out[0] <- rank 0 ch 0
           6  send   out[0] -> rank 2 ch 0
           7  recv   out[2] <- rank 0 ch 0
        ");
        insta::assert_snapshot!(all(Algorithm::Staged, Shape::one_host(Collective::AllReduce, 3))[1], @r"
        rank 1: 3 chunks, 3 stage slots
           0  copy   in[2] -> stage2[2]
           1  copy   in[0] -> stage0[0]
           2  signal 1
           3  wait   rank 0 signal 1
           4  wait   rank 2 signal 1
           5  reduce 0:stage1[1] + in[1] + 2:stage1[1] -> out[1], stage1[1] = all
           6  signal 2
           7  wait   rank 0 signal 2
           8  wait   rank 2 signal 2
           9  copy   2:stage2[2] -> out[2]
          10  copy   0:stage0[0] -> out[0]
        ");
        insta::assert_snapshot!(all(Algorithm::Pat, Shape::apart(Collective::ReduceScatter, 5))[0], @r"
        rank 0: 5 chunks, 1 private slot
           0  send   in[4] -> rank 4 ch 0
           1  send   in[2] -> rank 4 ch 0
           2  fold   out[0] <- in[0] + rank 1 ch 0
           3  fold   priv0[3] <- in[3] + rank 1 ch 0
           4  send   priv0[3] -> rank 3 ch 0
           5  fold   out[0] <- out[0] + rank 2 ch 0
           6  send   in[1] -> rank 1 ch 0
           7  fold   out[0] <- out[0] + rank 4 ch 0 = all
        ");
    }

    #[test]
    fn side_by_side() {
        insta::assert_snapshot!(steps(&all(Algorithm::Ring, Shape::apart(Collective::AllReduce, 3))), @r"
        step  | rank 0                                     | rank 1                                     | rank 2
        1     | send   in[2] -> rank 1 ch 0                | send   in[0] -> rank 2 ch 0                | send   in[1] -> rank 0 ch 0
              | fold   out[1] <- in[1] + rank 2 ch 0       | fold   out[2] <- in[2] + rank 0 ch 0       | fold   out[0] <- in[0] + rank 1 ch 0
        2     | send   out[1] -> rank 1 ch 0               | send   out[2] -> rank 2 ch 0               | send   out[0] -> rank 0 ch 0
              | fold   out[0] <- in[0] + rank 2 ch 0 = all | fold   out[1] <- in[1] + rank 0 ch 0 = all | fold   out[2] <- in[2] + rank 1 ch 0 = all
        3     | send   out[0] -> rank 1 ch 0               | send   out[1] -> rank 2 ch 0               | send   out[2] -> rank 0 ch 0
              | recv   out[2] <- rank 2 ch 0               | recv   out[0] <- rank 0 ch 0               | recv   out[1] <- rank 1 ch 0
        4     | send   out[2] -> rank 1 ch 0               | send   out[0] -> rank 2 ch 0               | send   out[1] -> rank 0 ch 0
              | recv   out[1] <- rank 2 ch 0               | recv   out[2] <- rank 0 ch 0               | recv   out[0] <- rank 1 ch 0
        ");
        insta::assert_snapshot!(steps(&all(Algorithm::Pat, Shape::apart(Collective::AllGather, 4))), @r"
        step  | rank 0                       | rank 1                       | rank 2                       | rank 3
        1     | copy   in[0] -> out[0]       | copy   in[1] -> out[1]       | copy   in[2] -> out[2]       | copy   in[3] -> out[3]
              | send   in[0] -> rank 2 ch 0  | send   in[1] -> rank 3 ch 0  | send   in[2] -> rank 0 ch 0  | send   in[3] -> rank 1 ch 0
              | recv   out[2] <- rank 2 ch 0 | recv   out[3] <- rank 3 ch 0 | recv   out[0] <- rank 0 ch 0 | recv   out[1] <- rank 1 ch 0
              | send   in[0] -> rank 1 ch 0  | send   in[1] -> rank 2 ch 0  | send   in[2] -> rank 3 ch 0  | send   in[3] -> rank 0 ch 0
              | recv   out[3] <- rank 3 ch 0 | recv   out[0] <- rank 0 ch 0 | recv   out[1] <- rank 1 ch 0 | recv   out[2] <- rank 2 ch 0
        2     | send   out[2] -> rank 1 ch 0 | send   out[3] -> rank 2 ch 0 | send   out[0] -> rank 3 ch 0 | send   out[1] -> rank 0 ch 0
              | recv   out[1] <- rank 3 ch 0 | recv   out[2] <- rank 0 ch 0 | recv   out[3] <- rank 1 ch 0 | recv   out[0] <- rank 2 ch 0
        ");
        insta::assert_snapshot!(steps(&all(Algorithm::FlatPush, Shape::one_host(Collective::AllReduce, 3))), @r"
        step  | rank 0                                                               | rank 1                                                               | rank 2
        1     | signal 1                                                             | signal 1                                                             | signal 1
              | wait   rank 1 signal 1                                               | wait   rank 0 signal 1                                               | wait   rank 0 signal 1
              | wait   rank 2 signal 1                                               | wait   rank 2 signal 1                                               | wait   rank 1 signal 1
        2     | reduce in[0] + 1:in[0] + 2:in[0] -> out[0], 1:out[0], 2:out[0] = all | reduce 0:in[1] + in[1] + 2:in[1] -> 0:out[1], out[1], 2:out[1] = all | reduce 0:in[2] + 1:in[2] + in[2] -> 0:out[2], 1:out[2], out[2] = all
              | signal 2                                                             | signal 2                                                             | signal 2
              | wait   rank 1 signal 2                                               | wait   rank 0 signal 2                                               | wait   rank 0 signal 2
              | wait   rank 2 signal 2                                               | wait   rank 2 signal 2                                               | wait   rank 1 signal 2
        ");
        insta::assert_snapshot!(steps(&all(Algorithm::RecursiveDoubling, Shape::apart(Collective::AllReduce, 3))), @r"
        step  | rank 0                       | rank 1                                      | rank 2
        1     | send   in[0] -> rank 1 ch 0  | fold   out[0] <- in[0] + rank 0 ch 0        | send   in[0] -> rank 1 ch 0
        2     |                              | send   out[0] -> rank 2 ch 0                | fold   out[0] <- in[0] + rank 1 ch 0 = all
              |                              | fold   out[0] <- out[0] + rank 2 ch 0 = all |
        3     | recv   out[0] <- rank 1 ch 0 | send   out[0] -> rank 0 ch 0                |
        ");
        insta::assert_snapshot!(steps(&all(Algorithm::DoubleTree, Shape::apart(Collective::AllReduce, 4))), @r"
        step  | rank 0                                     | rank 1                                | rank 2                                | rank 3
        1     | send   in[1] -> rank 1 ch 0                | send   in[0] -> rank 2 ch 0           | fold   out[0] <- in[0] + rank 1 ch 0  | send   in[0] -> rank 2 ch 0
              |                                            | fold   out[1] <- in[1] + rank 2 ch 0  | fold   out[0] <- out[0] + rank 3 ch 0 |
              |                                            | fold   out[1] <- out[1] + rank 0 ch 0 | send   in[1] -> rank 1 ch 0           |
        2     | fold   out[0] <- in[0] + rank 2 ch 0 = all | send   out[1] -> rank 3 ch 0          | send   out[0] -> rank 0 ch 0          | fold   out[1] <- in[1] + rank 1 ch 0 = all
        3     | send   out[0] -> rank 2 ch 0               | recv   out[1] <- rank 3 ch 0          | recv   out[0] <- rank 0 ch 0          | send   out[1] -> rank 1 ch 0
        4     | recv   out[1] <- rank 1 ch 0               | recv   out[0] <- rank 2 ch 0          | send   out[0] -> rank 1 ch 0          | recv   out[0] <- rank 2 ch 0
              |                                            | send   out[1] -> rank 2 ch 0          | send   out[0] -> rank 3 ch 0          |
              |                                            | send   out[1] -> rank 0 ch 0          | recv   out[1] <- rank 1 ch 0          |
        ");
        let hosts = vec![vec![0, 1], vec![2, 3]];
        let shape = Shape { hosts, ..Shape::apart(Collective::AllReduce, 0) };
        insta::assert_snapshot!(steps(&all(Algorithm::Hierarchical, shape)), @r"
        step  | rank 0                                            | rank 1                                            | rank 2                                            | rank 3
        1     | copy   in[1] -> stage1[1]                         | copy   in[0] -> stage0[0]                         | copy   in[1] -> stage1[1]                         | copy   in[0] -> stage0[0]
              | signal 1                                          | signal 1                                          | signal 1                                          | signal 1
              | wait   rank 1 signal 1                            | wait   rank 0 signal 1                            | wait   rank 3 signal 1                            | wait   rank 2 signal 1
        2     | reduce in[0] + 1:stage0[0] -> stage0[0]           | reduce 0:stage1[1] + in[1] -> stage1[1]           | reduce in[0] + 3:stage0[0] -> stage0[0]           | reduce 2:stage1[1] + in[1] -> stage1[1]
        3     | send   stage0[0] -> rank 2 ch 0                   | send   stage1[1] -> rank 3 ch 0                   | send   stage0[0] -> rank 0 ch 0                   | send   stage1[1] -> rank 1 ch 0
              | fold   stage0[0] <- stage0[0] + rank 2 ch 0 = all | fold   stage1[1] <- stage1[1] + rank 3 ch 0 = all | fold   stage0[0] <- stage0[0] + rank 0 ch 0 = all | fold   stage1[1] <- stage1[1] + rank 1 ch 0 = all
              | signal 2                                          | signal 2                                          | signal 2                                          | signal 2
              | wait   rank 1 signal 2                            | wait   rank 0 signal 2                            | wait   rank 3 signal 2                            | wait   rank 2 signal 2
        4     | copy   stage0[0] -> out[0]                        | copy   0:stage0[0] -> out[0]                      | copy   stage0[0] -> out[0]                        | copy   2:stage0[0] -> out[0]
              | copy   1:stage1[1] -> out[1]                      | copy   stage1[1] -> out[1]                        | copy   3:stage1[1] -> out[1]                      | copy   stage1[1] -> out[1]
        ");
    }

    #[test]
    fn what_can_never_run_comes_last() {
        let mut programs = all(Algorithm::Chain, Shape::apart(Collective::Broadcast, 3));
        programs[0].ops.clear();
        insta::assert_snapshot!(steps(&programs), @r"
        step  | rank 0 | rank 1                       | rank 2
        never |        | recv   out[0] <- rank 0 ch 0 | recv   out[0] <- rank 1 ch 0
              |        | send   out[0] -> rank 2 ch 0 |
        ");
    }
}
