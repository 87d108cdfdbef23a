//! Each rule, broken by hand in the smallest program that can.
#![forbid(unsafe_code)]

use super::{Capacity, Rule, Violation, check};
use crate::schedule::catalogue::Shape;
use crate::schedule::{Loc, Op, Port, Program};
use crate::types::{Collective, Rank};

fn program(rank: Rank, chunks: u32, ops: Vec<Op>) -> Program {
    Program { rank, chunks, stage_slots: 1, scratch_slots: 1, ops }
}

fn send(peer: Rank, from: Loc) -> Op {
    Op::Send { to: Port { peer, channel: 0 }, from }
}

fn recv(peer: Rank, into: Loc) -> Op {
    Op::Recv { from: Port { peer, channel: 0 }, into }
}

fn recv_reduce(peer: Rank, with: Loc, into: Loc, last: bool) -> Op {
    Op::RecvReduce { from: Port { peer, channel: 0 }, with, into, last }
}

fn copy(from: Loc, into: Loc) -> Op {
    Op::Copy { from, into: vec![into] }
}

fn wait(on: Rank, signal: u32) -> Op {
    Op::Wait { on, signal }
}

/// Proves programs, one list of ops per rank, of vectors of one chunk.
fn prove(shape: &Shape, rounds: u32, ops: Vec<Vec<Op>>) -> Result<super::Facts, Violation> {
    let programs: Vec<Program> = ops.into_iter().enumerate().map(|(rank, ops)| program(rank, 1, ops)).collect();
    check(&programs, shape, Capacity::LEAST, rounds)
}

/// The violation that programs between two hosts end with.
#[track_caller]
fn broken(collective: Collective, rule: Rule, ops: Vec<Vec<Op>>) -> String {
    let violation = prove(&Shape::apart(collective, ops.len()), 1, ops).unwrap_err();
    assert_eq!(violation.rule, rule, "{violation}");
    violation.to_string()
}

/// The same on one host, for so many rounds.
#[track_caller]
fn broken_on_one_host(collective: Collective, rounds: u32, rule: Rule, ops: Vec<Vec<Op>>) -> String {
    let violation = prove(&Shape::one_host(collective, ops.len()), rounds, ops).unwrap_err();
    assert_eq!(violation.rule, rule, "{violation}");
    violation.to_string()
}

const IN: fn(Rank) -> Loc = |rank| Loc::input(rank, 0);
const OUT: fn(Rank) -> Loc = |rank| Loc::output(rank, 0);
const STAGE: fn(Rank) -> Loc = |rank| Loc::stage(rank, 0, 0);
const SCRATCH: fn(Rank) -> Loc = |rank| Loc::scratch(rank, 0, 0);

/// Two ranks that swap their vectors and add: right.
fn exchange() -> Vec<Vec<Op>> {
    let half = |me: Rank| vec![send(1 - me, IN(me)), recv_reduce(1 - me, IN(me), OUT(me), true)];
    vec![half(0), half(1)]
}

/// Broadcast from rank 0 by mapped memory, by staging: right.
fn staged_broadcast() -> Vec<Vec<Op>> {
    vec![
        vec![copy(IN(0), OUT(0)), copy(IN(0), STAGE(0)), Op::Signal, wait(1, 1), Op::Signal, wait(1, 2)],
        vec![Op::Signal, wait(0, 1), copy(STAGE(0), OUT(1)), Op::Signal],
    ]
}

/// Broadcast from rank 0, which writes into the output of rank 1: right.
fn pushed_broadcast() -> Vec<Vec<Op>> {
    vec![
        vec![Op::Signal, wait(1, 1), Op::Copy { from: IN(0), into: vec![OUT(0), OUT(1)] }, Op::Signal],
        vec![Op::Signal, wait(0, 1), Op::Signal, wait(0, 2)],
    ]
}

#[test]
fn what_is_right_passes() {
    let facts = prove(&Shape::apart(Collective::AllReduce, 2), 1, exchange()).unwrap();
    assert_eq!((facts.steps, facts.sent_max(), facts.sent_total(), facts.meetings), (1, 1, 2, 0));
    assert!(facts.rank_order && facts.rounds_once);
    let facts = prove(&Shape::one_host(Collective::Broadcast, 2), 1, staged_broadcast()).unwrap();
    assert_eq!((facts.loads, facts.stores, facts.meetings, facts.steps), (3, 3, 2, 0));
    for rounds in 1..=3 {
        prove(&Shape::one_host(Collective::Broadcast, 2), rounds, staged_broadcast()).unwrap();
        prove(&Shape::one_host(Collective::Broadcast, 2), rounds, pushed_broadcast()).unwrap();
    }
}

#[test]
fn v5_calls_begin_with_a_meeting_of_all_neighbours() {
    // Data are safe: rank 1 knows from the second signal what the first would tell it.
    let mut late = pushed_broadcast();
    late[1].remove(1);
    let text = broken_on_one_host(Collective::Broadcast, 1, Rule::WellFormed, late);
    assert!(text.contains("does not begin with one signal"), "{text}");
}

#[test]
fn v1_nothing_is_left_out_or_counted_twice() {
    let mut ops = exchange();
    ops[1][1] = recv(0, OUT(1));
    let text = broken(Collective::AllReduce, Rule::ExactlyOnce, ops);
    assert!(text.starts_with("rank 1: output chunk 0 ends with chunk 0 of rank 0"), "{text}");

    let doubled = |me: Rank| {
        vec![
            send(1 - me, IN(me)),
            send(1 - me, IN(me)),
            recv_reduce(1 - me, IN(me), OUT(me), true),
            recv_reduce(1 - me, OUT(me), OUT(me), true),
        ]
    };
    let text = broken(Collective::AllReduce, Rule::ExactlyOnce, vec![doubled(0), doubled(1)]);
    assert!(text.contains("adds the sum of chunk 0 of ranks 0 1 to chunk 0 of rank"), "{text}");

    let text = broken(Collective::Broadcast, Rule::ExactlyOnce, vec![vec![copy(IN(0), OUT(0))], vec![]]);
    assert!(text.contains("rank 1: output chunk 0 ends with nothing"), "{text}");

    let unwritten = vec![vec![send(1, SCRATCH(0)), copy(IN(0), OUT(0))], vec![recv(0, OUT(1))]];
    let text = broken(Collective::Broadcast, Rule::ExactlyOnce, unwritten);
    assert!(text.contains("nobody wrote it"), "{text}");
}

#[test]
fn v2_two_orders_of_three_are_two_results() {
    // Rank 0 gathers the vectors of the others and adds in order; the others add the first two the other way round.
    let scatter = |me: Rank| {
        let (a, b) = ((me + 1) % 3, (me + 2) % 3);
        vec![
            send(a, IN(me)),
            send(b, IN(me)),
            recv_reduce(a, IN(me), OUT(me), false),
            recv_reduce(b, OUT(me), OUT(me), true),
        ]
    };
    let text = broken(Collective::AllReduce, Rule::SameBits, vec![scatter(0), scatter(1), scatter(2)]);
    assert!(text.contains("adds up chunk 0 in another order than rank 0"), "{text}");
}

#[test]
fn v2_rounding_once_is_another_result_than_rounding_twice() {
    let stage = |rank: Rank| vec![copy(IN(rank), STAGE(rank)), Op::Signal];
    let meet = |rank: Rank| [wait((rank + 1) % 3, 1), wait((rank + 2) % 3, 1)];
    let reduce = |from: Vec<Loc>, into, last| Op::Reduce { from, into: vec![into], last };
    let at_once = |rank: Rank| {
        let sum = reduce(vec![STAGE(0), STAGE(1), STAGE(2)], OUT(rank), true);
        [stage(rank), meet(rank).to_vec(), vec![sum]].concat()
    };
    let in_two = |rank: Rank| {
        let first = reduce(vec![STAGE(0), STAGE(1)], OUT(rank), false);
        let second = reduce(vec![OUT(rank), STAGE(2)], OUT(rank), true);
        [stage(rank), meet(rank).to_vec(), vec![first, second]].concat()
    };
    let shape = Shape::one_host(Collective::AllReduce, 3);
    let once = prove(&shape, 1, vec![at_once(0), at_once(1), at_once(2)]).unwrap();
    let twice = prove(&shape, 1, vec![in_two(0), in_two(1), in_two(2)]).unwrap();
    assert!(once.rank_order && once.rounds_once && twice.rank_order && !twice.rounds_once);
    broken_on_one_host(Collective::AllReduce, 1, Rule::SameBits, vec![at_once(0), in_two(1), at_once(2)]);
}

#[test]
fn v2_last_is_where_the_sum_is_complete() {
    let mut ops = exchange();
    ops[0][1] = recv_reduce(1, IN(0), OUT(0), false);
    let text = broken(Collective::AllReduce, Rule::SameBits, ops);
    assert!(text.contains("`last` is false"), "{text}");
}

#[test]
fn v3_both_wait_for_the_other_to_begin() {
    let half = |me: Rank| vec![recv(1 - me, SCRATCH(me)), send(1 - me, SCRATCH(me)), copy(IN(me), OUT(me))];
    let text = broken(Collective::AllReduce, Rule::NoDeadlock, vec![half(0), half(1)]);
    assert!(text.contains("can never go on; stuck too"), "{text}");
}

#[test]
fn v3_a_link_that_must_hold_a_whole_chunk() {
    // The signal comes after all of the send, and nobody receives before the signal.
    let half =
        |me: Rank| vec![send(1 - me, IN(me)), Op::Signal, wait(1 - me, 1), recv_reduce(1 - me, IN(me), OUT(me), true)];
    let programs = [program(0, 1, half(0)), program(1, 1, half(1))];
    let shape = Shape::one_host(Collective::AllReduce, 2);
    let with = |link_slices, chunk_slices| check(&programs, &shape, Capacity { link_slices, chunk_slices }, 1);
    with(1, 1).unwrap();
    with(3, 3).unwrap();
    assert_eq!(with(2, 3).unwrap_err().rule, Rule::NoDeadlock);
}

#[test]
fn v4_leaving_too_early() {
    let mut ops = staged_broadcast();
    ops[0].pop();
    // In one round rank 0 needs no second signal of rank 1; in two it overwrites what rank 1 still reads.
    prove(&Shape::one_host(Collective::Broadcast, 2), 1, ops.clone()).unwrap();
    let text = broken_on_one_host(Collective::Broadcast, 2, Rule::NoRace, ops);
    assert!(text.contains("without knowing that rank 1 is done with it"), "{text}");

    let mut ops = pushed_broadcast();
    ops[1].pop();
    let text = broken_on_one_host(Collective::Broadcast, 1, Rule::NoRace, ops);
    assert!(text.contains("rank 1: ends without knowing that rank 0 is done with its Output chunk 0"), "{text}");
}

#[test]
fn v4_coming_too_early() {
    let mut ops = pushed_broadcast();
    ops[0].remove(1);
    let text = broken_on_one_host(Collective::Broadcast, 1, Rule::NoRace, ops);
    assert!(text.contains("without knowing that rank 1 has begun the call"), "{text}");
}

#[test]
fn v4_ending_before_all_have_begun() {
    // Rank 1 knows what it needs, but rank 0 could be two calls ahead, in the half of the slots that rank 1 reads.
    let ops = vec![
        vec![copy(IN(0), OUT(0)), copy(IN(0), STAGE(0)), Op::Signal],
        vec![Op::Signal, wait(0, 1), copy(STAGE(0), OUT(1))],
    ];
    let text = broken_on_one_host(Collective::Broadcast, 1, Rule::NoRace, ops);
    assert!(text.contains("rank 0: ends without knowing that rank 1 has begun the call"), "{text}");
}

#[test]
fn v4_a_barrier_that_lets_somebody_through() {
    let token = |me: Rank, to: Rank, from: Rank| vec![send(to, SCRATCH(me)), recv(from, SCRATCH(me))];
    let ring = vec![token(0, 1, 2), token(1, 2, 0), token(2, 0, 1)];
    let text = broken(Collective::Barrier, Rule::NoRace, ring);
    assert!(text.contains("ends without knowing that rank"), "{text}");
}

#[test]
fn v5_everything_exists_and_fits() {
    let out_of_bounds = vec![vec![copy(IN(0), OUT(0)), send(1, Loc::input(0, 1))], vec![recv(0, OUT(1))]];
    assert!(broken(Collective::Broadcast, Rule::WellFormed, out_of_bounds).contains("does not exist"));

    let no_such_slot = vec![vec![copy(IN(0), Loc::stage(0, 1, 0))], vec![]];
    assert!(broken(Collective::Broadcast, Rule::WellFormed, no_such_slot).contains("does not exist"));

    let no_output_here = vec![vec![recv_reduce(1, IN(0), OUT(0), true)], vec![send(0, IN(1)), copy(IN(1), OUT(1))]];
    assert!(broken(Collective::Reduce, Rule::WellFormed, no_output_here).contains("does not exist"));

    let input_written = vec![vec![send(1, IN(0)), recv_reduce(1, IN(0), IN(0), true)], exchange().remove(1)];
    assert!(broken(Collective::AllReduce, Rule::WellFormed, input_written).contains("is read only"));

    let elsewhere = vec![vec![copy(IN(0), OUT(1))], vec![]];
    assert!(broken(Collective::Broadcast, Rule::WellFormed, elsewhere).contains("is on another host"));

    let private = vec![vec![copy(IN(0), SCRATCH(1))], vec![]];
    assert!(broken_on_one_host(Collective::Broadcast, 1, Rule::WellFormed, private).contains("is private"));

    let left_over = vec![vec![copy(IN(0), OUT(0)), send(1, IN(0)), send(1, IN(0))], vec![recv(0, OUT(1))]];
    assert!(
        broken(Collective::Broadcast, Rule::WellFormed, left_over).contains("sends more to rank 1 than it receives")
    );

    let uneven = vec![vec![Op::Signal, Op::Signal], vec![Op::Signal, wait(0, 2)]];
    assert!(broken_on_one_host(Collective::Barrier, 1, Rule::WellFormed, uneven).contains("gives 1 signals"));
}

#[test]
fn v5_both_ends_agree_on_the_length() {
    let programs = [
        program(0, 2, vec![send(1, Loc::input(0, 0)), copy(Loc::input(0, 0), Loc::output(0, 0))]),
        program(1, 2, vec![recv(0, Loc::output(1, 1))]),
    ];
    let violation = check(&programs, &Shape::apart(Collective::Broadcast, 2), Capacity::LEAST, 1).unwrap_err();
    assert_eq!(violation.rule, Rule::WellFormed);
    assert!(violation.to_string().contains("another length"), "{violation}");
}

#[test]
fn v7_nobody_waits_for_itself() {
    let to_itself = vec![vec![send(0, IN(0)), recv(0, OUT(0))], vec![]];
    assert!(broken(Collective::Broadcast, Rule::Abortable, to_itself).contains("rank 0 is no peer"));
    let on_itself = vec![vec![Op::Signal, wait(0, 1)], vec![Op::Signal]];
    broken_on_one_host(Collective::Barrier, 1, Rule::Abortable, on_itself);
}
