//! Ledgers that answer to a store: what they ask it, and what they make of its rulings.

use super::ledger::{Audience, Ledger, Mail};
use super::messages::{ExchangeError, ExchangeId, FromRoot, Gone, Terms, ToRoot};
use super::roster::Seat;
use super::store::{Appeal, Register, Ruling, Way};
use crate::types::Rank;
use proptest::prelude::*;

const FIRST: ExchangeId = [1; 16];
const SECOND: ExchangeId = [2; 16];

/// The ledger of a job of so many ranks that knows all of them.
fn ledger(world: usize) -> Ledger {
    let mut ledger = Ledger::new(world);
    ledger.appeal_to_store(true);
    for rank in 0..world {
        let door = ([10, 0, 0, 1], 1000 + rank as u16).into();
        let seat = Seat { door, process: 7, pid: 1, process_table: String::new() };
        ledger.receive(rank, ToRoot::Seat(seat), &mut Mail::new());
    }
    ledger
}

fn silent() -> Gone {
    Gone::Silent("has given no sign of life".into())
}

fn depart(ledger: &mut Ledger, rank: Rank, how: Gone) -> Mail {
    let mut mail = Mail::new();
    ledger.depart(rank, how, &mut mail);
    mail
}

/// `rank` takes part in a census of everybody.
fn counted(ledger: &mut Ledger, exchange: ExchangeId, world: usize, rank: Rank) -> Mail {
    let members = (0..world).collect();
    let mut mail = Mail::new();
    let message = ToRoot::Contribute { exchange, members, terms: Terms::Living, bytes: vec![rank as u8] };
    ledger.receive(rank, message, &mut mail);
    mail
}

fn ruled(ledger: &mut Ledger, appeal: &Appeal, ruling: Ruling) -> (Mail, bool) {
    let mut mail = Mail::new();
    let stands = ledger.hear_ruling(appeal, ruling, &mut mail);
    (mail, stands)
}

fn ranks(members: &[super::store::Member]) -> Vec<Rank> {
    members.iter().map(|member| member.rank).collect()
}

/// How exchanges have failed.
fn failures(mail: &Mail) -> Vec<&ExchangeError> {
    let messages = mail.iter().map(|(_, message)| message);
    let failures = messages.filter_map(|message| match message {
        FromRoot::ExchangeFailed { error, .. } => Some(error),
        _ => None,
    });
    failures.collect()
}

fn succeeds(mail: &Mail) -> bool {
    mail.iter().any(|(_, message)| matches!(message, FromRoot::Part { .. }))
}

#[test]
fn nobody_goes_on_without_the_doubtful_before_the_store_says_so() {
    let mut job = ledger(3);
    counted(&mut job, FIRST, 3, 0);
    counted(&mut job, FIRST, 3, 1);
    assert_eq!(job.appeal(), None);
    assert!(!succeeds(&depart(&mut job, 2, silent())), "two of three, and yet");
    let appeal = job.appeal().unwrap();
    assert_eq!((ranks(&appeal.living), ranks(&appeal.doubtful)), (vec![0, 1], vec![2]));
    assert!(!appeal.is_outnumbered);
    let (mail, stands) = ruled(&mut job, &appeal, Ruling::Granted);
    assert!(stands && succeeds(&mail));
    // The next root is not to ask again.
    let told = (Audience::Everybody, FromRoot::Gone { rank: 2, how: Gone::Dead("has given no sign of life".into()) });
    assert_eq!(mail[0], told);
    assert_eq!(job.appeal(), None);
}

#[test]
fn the_dead_are_not_asked_about() {
    let mut job = ledger(3);
    counted(&mut job, FIRST, 3, 0);
    depart(&mut job, 1, Gone::Dead("was killed".into()));
    assert_eq!(job.appeal(), None);
    assert!(!succeeds(&depart(&mut job, 2, silent())));
    assert!(!job.appeal().unwrap().is_outnumbered);
    // Its connection closes a moment later.
    let mail = depart(&mut job, 2, Gone::Dead("was killed".into()));
    assert!(succeeds(&mail) && job.appeal().is_none());
}

#[test]
fn who_was_stopped_and_not_told_is_given_up_before_others_go_on() {
    let mut job = ledger(3);
    job.appeal_to_store(false);
    depart(&mut job, 0, Gone::Ended { what: "ended meanwhile".into(), in_good_order: false });
    depart(&mut job, 1, Gone::Stopped("is stopped".into()));
    assert!(!succeeds(&counted(&mut job, FIRST, 3, 2)));
    let appeal = job.appeal().unwrap();
    assert_eq!((ranks(&appeal.living), ranks(&appeal.doubtful)), (vec![2], vec![1]), "it may wake up");
    assert!(succeeds(&ruled(&mut job, &appeal, Ruling::Granted).0));
}

#[test]
fn a_denial_is_for_ever() {
    let mut job = ledger(3);
    counted(&mut job, FIRST, 3, 0);
    depart(&mut job, 1, silent());
    depart(&mut job, 2, silent());
    let appeal = job.appeal().unwrap();
    assert!(appeal.is_outnumbered);
    let (mail, stands) = ruled(&mut job, &appeal, Ruling::Denied);
    assert!(stands, "nobody has given this root up");
    let [ExchangeError::NotGranted { doubtful, why }] = failures(&mail)[..] else { panic!("{mail:?}") };
    assert!(doubtful == &[1, 2] && why.contains("given up the ranks on this side"), "{why}");
    let (mail, _) = ruled(&mut job, &appeal, Ruling::Granted);
    assert_eq!(mail, []);
    // Not even when the others have ended: whom they took in may go on.
    depart(&mut job, 1, Gone::Dead("ended".into()));
    depart(&mut job, 2, Gone::Dead("ended".into()));
    let mail = counted(&mut job, SECOND, 3, 0);
    assert!(!succeeds(&mail) && failures(&mail).len() == 1 && job.appeal().is_none() && !job.may_go_on());
}

#[test]
fn a_new_root_asks_whether_those_who_are_dead_had_gone_on_without_it() {
    let next = || {
        let mut job = ledger(3);
        job.appeal_to_store(false);
        assert!(!succeeds(&counted(&mut job, FIRST, 3, 1)) && job.appeal().is_none(), "nobody is missing");
        depart(&mut job, 0, Gone::Dead("ended with the root".into()));
        assert!(!succeeds(&counted(&mut job, FIRST, 3, 2)));
        let appeal = job.appeal().unwrap();
        assert_eq!((ranks(&appeal.living), ranks(&appeal.doubtful)), (vec![1, 2], vec![]));
        (appeal, job)
    };
    let (appeal, mut job) = next();
    assert!(succeeds(&ruled(&mut job, &appeal, Ruling::Granted).0));
    depart(&mut job, 1, Gone::Dead("was killed".into()));
    assert!(succeeds(&counted(&mut job, SECOND, 3, 2)), "once is enough");
    let (appeal, mut job) = next();
    let (mail, _) = ruled(&mut job, &appeal, Ruling::Denied);
    assert!(!succeeds(&mail) && failures(&mail).len() == 1);
}

#[test]
fn a_store_that_is_silent_grants_nothing_and_is_asked_again_by_the_next() {
    let mut job = ledger(3);
    counted(&mut job, FIRST, 3, 0);
    depart(&mut job, 2, silent());
    let appeal = job.appeal().unwrap();
    let (mail, stands) = ruled(&mut job, &appeal, Ruling::Silent("nobody there".into()));
    let [ExchangeError::NotGranted { why, .. }] = failures(&mail)[..] else { panic!("{mail:?}") };
    assert!(stands && why.contains("nobody there"));
    assert_eq!(job.appeal(), None);
    counted(&mut job, SECOND, 3, 0);
    counted(&mut job, SECOND, 3, 1);
    let appeal = job.appeal().unwrap();
    assert!(succeeds(&ruled(&mut job, &appeal, Ruling::Granted).0));
}

#[test]
fn who_runs_out_of_time_before_the_store_answers_is_told_so() {
    let mut job = ledger(2);
    counted(&mut job, FIRST, 2, 0);
    depart(&mut job, 1, silent());
    let mut mail = Mail::new();
    job.receive(0, ToRoot::GiveUp { exchange: FIRST }, &mut mail);
    let [ExchangeError::NotGranted { doubtful, why }] = failures(&mail)[..] else { panic!("{mail:?}") };
    assert!(doubtful == &[1] && why.contains("in time") && job.appeal().is_none());
}

#[test]
fn a_root_that_was_given_up_by_some_asks_for_itself() {
    let contested = || {
        let mut job = ledger(3);
        depart(&mut job, 1, Gone::Silent("has given up the root".into()));
        job.contest();
        (job.appeal().unwrap(), job)
    };
    let (appeal, mut job) = contested();
    assert_eq!((job.may_go_on(), ruled(&mut job, &appeal, Ruling::Granted).1), (true, true));
    let (appeal, mut job) = contested();
    assert!(!ruled(&mut job, &appeal, Ruling::Denied).1);
    // Where nobody can say, numbers do: whoever follows it can do nothing that needs a grant.
    let (appeal, mut job) = contested();
    assert!(ruled(&mut job, &appeal, Ruling::Silent(String::new())).1);
    let (appeal, mut job) = contested();
    depart(&mut job, 2, silent());
    assert!(!ruled(&mut job, &appeal, Ruling::Silent(String::new())).1);
}

/// What happens in one part of a job that has fallen apart.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// It finds the next of the others silent.
    Misses,
    /// Its next rank wants to go on.
    Wants,
    /// It asks the store; the answer is on its way.
    Asks,
    /// The answer is there.
    Hears,
    /// An answer that it had before is there once more.
    HearsAgain,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![Just(Step::Misses), Just(Step::Wants), Just(Step::Asks), Just(Step::Hears), Just(Step::HearsAgain)]
}

proptest! {
    /// However a job falls apart, and whatever order its parts notice, want, ask and hear in: at most one goes on.
    #[test]
    fn at_most_one_part_goes_on(
        sides in proptest::collection::vec(0usize..3, 2..7),
        steps in proptest::collection::vec((0usize..3, step()), 1..120),
    ) {
        let world = sides.len();
        let mut register = Register::default();
        let mut parts: Vec<Ledger> = (0..3).map(|_| ledger(world)).collect();
        let mut asked: [Vec<(Appeal, Ruling)>; 3] = Default::default();
        let mut heard: [Vec<(Appeal, Ruling)>; 3] = Default::default();
        let (mut missed, mut wanted, mut went_on) = ([0; 3], [0; 3], [false; 3]);
        // In the end everybody has noticed, wants, asks and hears.
        let rest = (0..3).flat_map(|part| {
            let all = |step| (0..world).map(move |_| (part, step));
            all(Step::Misses).chain(all(Step::Wants)).chain([(part, Step::Asks)]).chain(all(Step::Hears))
        });
        for (part, step) in steps.into_iter().chain(rest) {
            let ledger = &mut parts[part];
            let mine: Vec<Rank> = (0..world).filter(|rank| sides[*rank] == part).collect();
            let others: Vec<Rank> = (0..world).filter(|rank| sides[*rank] != part).collect();
            if mine.is_empty() {
                continue;
            }
            let mail = match step {
                Step::Misses if missed[part] < others.len() => {
                    missed[part] += 1;
                    depart(ledger, others[missed[part] - 1], silent())
                }
                Step::Wants if wanted[part] < mine.len() => {
                    wanted[part] += 1;
                    counted(ledger, FIRST, world, mine[wanted[part] - 1])
                }
                Step::Asks => {
                    if let Some(appeal) = ledger.appeal() {
                        let way = Way { reign: part as u32, doors: vec![] };
                        let ruling = if register.expel(&appeal, &way) { Ruling::Granted } else { Ruling::Denied };
                        asked[part].push((appeal, ruling));
                    }
                    Mail::new()
                }
                Step::Hears if !asked[part].is_empty() => {
                    let (appeal, ruling) = asked[part].remove(0);
                    heard[part].push((appeal.clone(), ruling.clone()));
                    ruled(ledger, &appeal, ruling).0
                }
                Step::HearsAgain if !heard[part].is_empty() => {
                    let (appeal, ruling) = heard[part][0].clone();
                    ruled(ledger, &appeal, ruling).0
                }
                _ => Mail::new(),
            };
            went_on[part] |= succeeds(&mail);
        }
        prop_assert!(went_on.iter().filter(|went_on| **went_on).count() <= 1, "{:?}", went_on);
        if (0..3).filter(|part| sides.contains(part)).count() == 1 {
            prop_assert!(went_on.contains(&true), "nobody was missing");
        }
    }
}
