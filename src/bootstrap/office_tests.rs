//! What a root decides as ranks come, go and give it up.
#![forbid(unsafe_code)]

use super::knowledge::Knowledge;
use super::messages::{FromRoot, Gone, Report, ToRoot};
use super::office::{Deed, Lookout, Office};
use super::roster::{Roster, Seat};
use super::succession::{Inheritance, Succession, patience};
use super::vigil::Rhythm;
use crate::types::Rank;
use std::time::{Duration, Instant};

/// Nothing is to be seen of anybody.
struct Fog;

impl Lookout for Fog {
    fn has_ended(&self, _: Rank, _: &Seat, _: bool) -> bool {
        false
    }

    fn is_still(&self, _: &Seat) -> bool {
        false
    }
}

#[test]
fn who_gives_a_successor_up_before_it_reigns_is_not_of_its_reign() {
    let seat = |rank: Rank| Seat {
        door: ([127, 0, 0, 1], 1000 + rank as u16).into(),
        process: rank as u64,
        pid: 1,
        process_table: String::new(),
    };
    let roster: Roster = (0..4).map(|rank| (rank, seat(rank))).collect();
    let mut knowledge = Knowledge::new(1, vec![0]);
    knowledge.hear(FromRoot::Roster(roster));
    knowledge.lose_root(Some(&Gone::Dead("was killed".into())));
    let rhythm = Rhythm { interval: Duration::from_millis(100), timeout: Duration::from_secs(1) };
    let start = Instant::now();
    let mut office = Office::succeed(Succession::new(Inheritance::of(&knowledge)), rhythm, 1, start);
    for rank in [1, 2] {
        assert!(office.take_back(rank).1.is_none());
        office.hear(rank, ToRoot::Report(Report::default()));
    }
    // Rank 3 does not come, and rank 2 has waited long enough.
    assert!(matches!(office.hear(2, ToRoot::Deposed { is_certain: false })[..], [Deed::HangUp(2)]));
    let mut now = start;
    while !office.is_reigning() {
        assert!(now < start + 2 * patience(rhythm.timeout));
        now += Duration::from_millis(20);
        office.keep_watch(now, &Fog);
    }
    let ledger = office.ledger().unwrap();
    assert!([2, 3].iter().all(|rank| matches!(ledger.fate(*rank), Some(Gone::Silent(_)))));
}
