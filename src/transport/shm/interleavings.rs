//! All interleavings of the two protocols in which each side stores and then looks at the other: doorbell and
//! enter/quiesce.
//!
//! Threads are lists of [`Step`]s over a few words. A store goes into the thread's store buffer and reaches memory at any
//! later time (as on x86, and weaker than sequential consistency in exactly the way that matters here); a fence waits for
//! the buffer to drain, and so does a swap. The search visits every reachable state. That it finds the faults is shown by
//! leaving a fence out.
#![forbid(unsafe_code)]

use std::collections::{HashSet, VecDeque};

type Value = u8;

#[derive(Clone, Copy)]
enum Step {
    Store(usize, Value),
    /// Goes to step `.2` if the word does not have this value.
    Unless(usize, Value, usize),
    /// Swaps in the first value; goes to `.3` if the second was not there.
    SwapUnless(usize, Value, Value, usize),
    Fence,
    /// Waits for the word to have this value (in memory: `poll(2)` looks at a socket's queue).
    Await(usize, Value),
    Jump(usize),
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Thread {
    at: usize,
    buffer: VecDeque<(usize, Value)>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct State {
    memory: Vec<Value>,
    threads: Vec<Thread>,
}

impl State {
    fn drain_one(&self, thread: usize) -> Option<State> {
        let mut next = self.clone();
        let (word, value) = next.threads[thread].buffer.pop_front()?;
        next.memory[word] = value;
        Some(next)
    }

    fn load(&self, thread: usize, word: usize) -> Value {
        let own = self.threads[thread].buffer.iter().rev().find(|store| store.0 == word);
        own.map_or(self.memory[word], |store| store.1)
    }

    fn step(&self, thread: usize, step: Step) -> Option<State> {
        let mut next = self.clone();
        let drained = self.threads[thread].buffer.is_empty();
        next.threads[thread].at += 1;
        match step {
            Step::Store(word, value) => next.threads[thread].buffer.push_back((word, value)),
            Step::Unless(word, value, to) if self.load(thread, word) != value => next.threads[thread].at = to,
            Step::SwapUnless(word, new, value, to) if drained => {
                if std::mem::replace(&mut next.memory[word], new) != value {
                    next.threads[thread].at = to;
                }
            }
            Step::Fence if !drained => return None,
            Step::SwapUnless(..) => return None,
            Step::Await(word, value) if self.memory[word] != value => return None,
            Step::Jump(to) => next.threads[thread].at = to,
            Step::Unless(..) | Step::Fence | Step::Await(..) => {}
        }
        Some(next)
    }
}

/// Visits every state; returns how many, or the first of which `is_fault(state, ended)` is true. A state has ended when
/// no thread can move: all are through, or wait for what nobody will do.
fn explore(words: usize, programs: &[&[Step]], is_fault: impl Fn(&State, bool) -> bool) -> Result<usize, ()> {
    let thread = Thread { at: 0, buffer: VecDeque::new() };
    let start = State { memory: vec![0; words], threads: vec![thread; programs.len()] };
    let mut seen = HashSet::from([start.clone()]);
    let mut open = vec![start];
    while let Some(state) = open.pop() {
        let next: Vec<State> = (0..programs.len())
            .flat_map(|thread| {
                let step = programs[thread].get(state.threads[thread].at);
                [state.drain_one(thread), step.and_then(|step| state.step(thread, *step))]
            })
            .flatten()
            .collect();
        if is_fault(&state, next.is_empty()) {
            return Err(());
        }
        open.extend(next.into_iter().filter(|state| seen.insert(state.clone())));
    }
    Ok(seen.len())
}

/// A fence, or nothing in its place.
fn fence(present: bool) -> Step {
    if present { Step::Fence } else { Step::Store(SPARE, 0) }
}

/// A word that nobody looks at, and a value that no word has.
const SPARE: usize = 0;
const SPARE_VALUE: Value = 9;

/// The sleeper waits for one thing and then for another, each published by a waker of its own, so it is also rung for
/// what it does not wait for yet. Lost wake-up: it stays in `poll` although all was published.
fn doorbell(sleeper_fence: bool, waker_fence: bool) -> Result<usize, ()> {
    const ASLEEP: usize = 1;
    const BELL: usize = 2;
    const DATA: [usize; 2] = [3, 4];
    let wait_for = |data: usize, at: usize| {
        [
            Step::Store(ASLEEP, 1), // lie_down
            fence(sleeper_fence),
            Step::Unless(data, 1, at + 6),                  // look again: nothing? sleep
            Step::SwapUnless(ASLEEP, 0, 0, at + 5),         // drop the nap; and where somebody has called,
            Step::SwapUnless(BELL, 0, SPARE_VALUE, at + 5), // drain
            Step::Jump(at + 10),
            Step::Await(BELL, 1),                             // sleep
            Step::SwapUnless(ASLEEP, 0, SPARE_VALUE, at + 8), // awake
            Step::SwapUnless(BELL, 0, SPARE_VALUE, at + 9),   // drain
            Step::Jump(at),
        ]
    };
    let sleeper = [wait_for(DATA[0], 0), wait_for(DATA[1], 10)].concat();
    let waker = |data: usize| {
        [
            Step::Store(data, 1), // publish
            fence(waker_fence),
            Step::Unless(ASLEEP, 1, 5), // ring_if_asleep
            Step::SwapUnless(ASLEEP, 0, 1, 5),
            Step::SwapUnless(BELL, 1, SPARE_VALUE, 5), // send; one byte or more, poll cannot tell
        ]
    };
    explore(5, &[&sleeper, &waker(DATA[0]), &waker(DATA[1])], |state, ended| {
        ended && state.threads[0].at != sleeper.len()
    })
}

#[test]
fn no_wake_up_is_lost() {
    let states = doorbell(true, true).expect("a sleeper was left behind");
    assert!(states > 400, "only {states} states were visited");
}

#[test]
fn without_either_fence_a_wake_up_is_lost() {
    assert!(doorbell(false, true).is_err());
    assert!(doorbell(true, false).is_err());
}

/// A neighbour enters, touches and leaves, twice; a rank fails it, waits until it is outside, and returns its buffers.
/// Fault: touched after they were returned.
fn quiesce(enter_fence: bool, fail_fence: bool) -> Result<usize, ()> {
    const INSIDE: usize = 1;
    const ABORT: usize = 2;
    const RETURNED: usize = 3;
    const TOUCH: [usize; 2] = [3, 8];
    let neighbour = [
        Step::Store(INSIDE, 1), // enter
        fence(enter_fence),
        Step::Unless(ABORT, 0, 10),
        Step::Store(SPARE, 0),  // touch
        Step::Store(INSIDE, 0), // leave
        Step::Store(INSIDE, 1),
        fence(enter_fence),
        Step::Unless(ABORT, 0, 10),
        Step::Store(SPARE, 0),
        Step::Jump(10),
        Step::Store(INSIDE, 0), // leave, or not entered
    ];
    let failing =
        [Step::Store(ABORT, 1), fence(fail_fence), Step::Unless(INSIDE, 0, 2), Step::SwapUnless(RETURNED, 1, 0, 4)];
    explore(4, &[&neighbour, &failing], |state, _| state.memory[RETURNED] == 1 && TOUCH.contains(&state.threads[0].at))
}

#[test]
fn nobody_touches_a_buffer_that_was_returned() {
    let states = quiesce(true, true).expect("a returned buffer was touched");
    assert!(states > 50, "only {states} states were visited");
}

#[test]
fn without_either_fence_a_returned_buffer_is_touched() {
    assert!(quiesce(false, true).is_err());
    assert!(quiesce(true, false).is_err());
}
