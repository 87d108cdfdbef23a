//! Whether a part of a group may go on without the rest.
//!
//! Who is known to be dead cannot object. Who merely cannot be reached may be on the other side of a cut network, asking
//! the same question about us; so at most one side may get a yes. That is the larger one, or of two halves the one with
//! the lowest rank.
//!
//! Who is found to have ended, or to be stopped, when no root saw it may have gone on before with those who cannot be reached.
//! So it counts as one of them; where there are none, there is nobody left with whom it might have.
//!
//! ```text
//!   members 0 1 2 3     3 is dead     0 | 1 2  cut off from each other:    0 no, 1 and 2 yes
//!                                     0 1 | 2 3 cut, nobody dead:          0 and 1 yes, 2 and 3 no
//!   members 0 1 2       0 | 1 2 cut, 1 and 2 go on, 1 ends:                0 no, although 1 is no more
//! ```
//!
//! A job with a [`store`](super::store) does not count: whichever side asks it first gets the yes.
#![forbid(unsafe_code)]

use super::messages::{ExchangeError, Gone};
use crate::types::Rank;
use std::collections::BTreeMap;

/// Who decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Judge {
    /// The rule above.
    Numbers,
    /// The job's store.
    Store(Standing),
}

/// Of a part of the job before its store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Standing {
    /// A new root does not know yet: others may have been granted to go on without those who follow it, and be dead by now.
    Unknown,
    /// At the last word it was not given up.
    Good,
    /// It was given up, which is for ever, and why.
    Denied(String),
}

/// What the judge says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    GoOn,
    Stop(ExchangeError),
    /// The store is to be asked.
    Appeal,
}

impl Judge {
    /// Of a group of which these are `gone`, and all others present.
    pub(super) fn judge(&self, members: &[Rank], gone: &BTreeMap<Rank, Gone>) -> Verdict {
        let mut absent = members.iter().filter_map(|rank| gone.get(rank));
        match self {
            Judge::Numbers => match may_go_on(members, gone) {
                Ok(()) => Verdict::GoOn,
                Err(doubtful) => Verdict::Stop(ExchangeError::Minority { doubtful }),
            },
            Judge::Store(_) if absent.clone().next().is_none() => Verdict::GoOn,
            // Before its standing became good the store was asked whether others had gone on without this part.
            Judge::Store(Standing::Good) if absent.all(Gone::has_ended) => Verdict::GoOn,
            Judge::Store(Standing::Good | Standing::Unknown) => Verdict::Appeal,
            Judge::Store(Standing::Denied(why)) => {
                let doubtful = members.iter().copied().filter(|rank| gone.contains_key(rank)).collect();
                Verdict::Stop(ExchangeError::NotGranted { doubtful, why: why.clone() })
            }
        }
    }
}

/// `Ok` when those of `members` who are not `gone` may go on without the others; else those who cannot be reached.
pub(super) fn may_go_on(members: &[Rank], gone: &BTreeMap<Rank, Gone>) -> Result<(), Vec<Rank>> {
    let Sides { here, unseen, doubtful } = Sides::of(members, gone);
    let against = [&doubtful[..], &unseen[..]].concat();
    if doubtful.is_empty() || outweigh(&here, &against) { Ok(()) } else { Err(doubtful) }
}

/// Whether a root whose followers are not `gone` serves more of those who live than others can. Of who goes on this says
/// nothing: that is asked about each group.
pub(super) fn is_worth_a_root(members: &[Rank], gone: &BTreeMap<Rank, Gone>) -> bool {
    let Sides { here, doubtful, .. } = Sides::of(members, gone);
    outweigh(&here, &doubtful)
}

/// A group without those who are known to be dead.
struct Sides {
    here: Vec<Rank>,
    /// Those who ended or were stopped when no root saw it.
    unseen: Vec<Rank>,
    doubtful: Vec<Rank>,
}

impl Sides {
    fn of(members: &[Rank], gone: &BTreeMap<Rank, Gone>) -> Sides {
        let mut sides = Sides { here: Vec::new(), unseen: Vec::new(), doubtful: Vec::new() };
        for &rank in members {
            match gone.get(&rank) {
                None => sides.here.push(rank),
                Some(Gone::Left | Gone::Dead(_)) => {}
                Some(Gone::Ended { .. } | Gone::Stopped(_)) => sides.unseen.push(rank),
                Some(Gone::Silent(_)) => sides.doubtful.push(rank),
            }
        }
        sides
    }
}

/// More, or as many and with the lowest rank.
fn outweigh(here: &[Rank], against: &[Rank]) -> bool {
    here.len() > against.len() || (here.len() == against.len() && here.iter().min() < against.iter().min())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn dead() -> Gone {
        Gone::Dead("was killed".into())
    }

    fn ended() -> Gone {
        Gone::Ended { what: "ended meanwhile".into(), in_good_order: false }
    }

    fn silent() -> Gone {
        Gone::Silent("fell silent".into())
    }

    fn of_four(gone: &[(Rank, Gone)]) -> Result<(), Vec<Rank>> {
        may_go_on(&[0, 1, 2, 3], &gone.iter().cloned().collect())
    }

    #[test]
    fn the_dead_do_not_count() {
        assert_eq!(of_four(&[(2, silent()), (3, silent())]), Ok(()));
        assert_eq!(of_four(&[(0, silent()), (1, silent())]), Err(vec![0, 1]));
        assert_eq!(of_four(&[(0, silent()), (3, dead())]), Ok(()));
        assert_eq!(of_four(&[(0, dead()), (1, dead()), (2, Gone::Left)]), Ok(()));
        assert_eq!(of_four(&[(0, dead()), (1, dead()), (2, silent())]), Err(vec![2]));
    }

    #[test]
    fn those_who_ended_unseen_count_as_long_as_somebody_is_doubtful() {
        assert_eq!(of_four(&[(0, ended()), (1, ended()), (2, ended())]), Ok(()));
        assert_eq!(of_four(&[(1, ended()), (2, ended()), (3, silent())]), Err(vec![3]));
        assert_eq!(of_four(&[(2, ended()), (3, silent())]), Ok(()));
        assert_eq!(of_four(&[(1, ended()), (2, ended()), (3, Gone::Stopped("is stopped".into()))]), Ok(()));
        assert_eq!(of_four(&[(0, Gone::Stopped("is stopped".into())), (3, silent())]), Err(vec![3]));
        assert_eq!(of_four(&[(0, ended()), (3, silent())]), Err(vec![3]));
        assert_eq!(of_four(&[(0, ended()), (1, dead()), (2, dead()), (3, ended())]), Ok(()));
        let gone = [(1, ended()), (2, ended()), (3, silent())].into();
        assert!(is_worth_a_root(&[0, 1, 2, 3], &gone), "of two who live it is the lower");
    }

    /// A member of a job that falls apart.
    #[derive(Debug, Clone)]
    struct Member {
        /// Nobody lives on the last, which everybody knows.
        side: usize,
        /// It ends when it has done its part on its side.
        ends: bool,
        /// Which of the sides find out that it has ended; the others only that it does not answer.
        found_by: [bool; 3],
    }

    fn member() -> impl Strategy<Value = Member> {
        (0usize..4, any::<bool>(), any::<[bool; 3]>()).prop_map(|(side, ends, found_by)| Member {
            side,
            ends,
            found_by,
        })
    }

    proptest! {
        /// However the members fall apart, whoever is dead or ends meanwhile, before or after its side was asked, and whoever
        /// finds out: of two sides on which somebody lives never both go on.
        #[test]
        fn at_most_one_side_goes_on(
            members in proptest::collection::vec(member(), 1..9),
            asks_late in any::<[bool; 3]>(),
        ) {
            let fate = |side: usize, member: &Member| match member {
                Member { side: 3, .. } => Some(dead()),
                // Its own root saw it.
                Member { side: own, ends, .. } if *own == side => (asks_late[side] && *ends).then(dead),
                Member { ends: true, found_by, .. } if found_by[side] => Some(ended()),
                _ => Some(silent()),
            };
            let goes_on = |side: usize| {
                let fates = members.iter().enumerate().map(|(rank, member)| (rank, fate(side, member)));
                let gone = fates.filter_map(|(rank, fate)| Some((rank, fate?))).collect();
                may_go_on(&(0..members.len()).collect::<Vec<_>>(), &gone).is_ok()
            };
            let is_alive = |side: usize| members.iter().any(|member| member.side == side && !member.ends);
            prop_assert!((0..3).filter(|side| is_alive(*side) && goes_on(*side)).count() <= 1);
        }
    }
}
