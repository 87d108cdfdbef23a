//! Whether a part of a group may go on without the rest.
//!
//! Who is known to be dead cannot object. Who merely cannot be reached may be on the other side of a cut network, asking
//! the same question about us; so at most one side may get a yes. That is the larger one, or of two halves the one with
//! the lowest rank.
//!
//! ```text
//!   members 0 1 2 3     3 is dead     0 | 1 2  cut off from each other:    0 no, 1 and 2 yes
//!                                     0 1 | 2 3 cut, nobody dead:          0 and 1 yes, 2 and 3 no
//! ```
//!
//! A job with a [`store`](super::store) does not count: whichever side asks it first gets the yes.
#![forbid(unsafe_code)]

use super::messages::ExchangeError;
use crate::types::Rank;

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
    pub(super) fn judge(
        &self,
        members: &[Rank],
        present: impl Fn(Rank) -> bool,
        dead: impl Fn(Rank) -> bool,
    ) -> Verdict {
        let absent: Vec<Rank> = members.iter().copied().filter(|rank| !present(*rank)).collect();
        match self {
            Judge::Numbers => match may_go_on(members, present, dead) {
                Ok(()) => Verdict::GoOn,
                Err(doubtful) => Verdict::Stop(ExchangeError::Minority { doubtful }),
            },
            Judge::Store(_) if absent.is_empty() => Verdict::GoOn,
            Judge::Store(Standing::Good) if absent.iter().all(|rank| dead(*rank)) => Verdict::GoOn,
            Judge::Store(Standing::Good | Standing::Unknown) => Verdict::Appeal,
            Judge::Store(Standing::Denied(why)) => {
                Verdict::Stop(ExchangeError::NotGranted { doubtful: absent, why: why.clone() })
            }
        }
    }
}

/// Splits `members` into those who are `present`, those known to be `dead`, and the doubtful rest. `Ok` when the present may
/// go on; else the doubtful.
pub(super) fn may_go_on(
    members: &[Rank],
    present: impl Fn(Rank) -> bool,
    dead: impl Fn(Rank) -> bool,
) -> Result<(), Vec<Rank>> {
    let (here, absent): (Vec<Rank>, Vec<Rank>) = members.iter().partition(|rank| present(**rank));
    let doubtful: Vec<Rank> = absent.into_iter().filter(|rank| !dead(*rank)).collect();
    let has_lowest = here.iter().min() < doubtful.iter().min();
    match here.len().cmp(&doubtful.len()) {
        std::cmp::Ordering::Greater => Ok(()),
        std::cmp::Ordering::Equal if has_lowest => Ok(()),
        _ => Err(doubtful),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_dead_do_not_count() {
        let side = |here: &[Rank], dead: &[Rank]| {
            may_go_on(&[0, 1, 2, 3], |rank| here.contains(&rank), |rank| dead.contains(&rank))
        };
        assert_eq!(side(&[0, 1], &[]), Ok(()));
        assert_eq!(side(&[2, 3], &[]), Err(vec![0, 1]));
        assert_eq!(side(&[1, 2], &[3]), Ok(()));
        assert_eq!(side(&[3], &[0, 1, 2]), Ok(()));
        assert_eq!(side(&[3], &[0, 1]), Err(vec![2]));
    }

    proptest! {
        /// However the members fall apart, and whoever is dead: two sides never both go on.
        #[test]
        fn at_most_one_side_goes_on(sides in proptest::collection::vec(0u8..4, 1..9)) {
            // Side 3 are the dead; everybody knows that.
            let members: Vec<Rank> = (0..sides.len()).collect();
            let goes_on = |side: u8| {
                sides.contains(&side) && may_go_on(&members, |rank| sides[rank] == side, |rank| sides[rank] == 3).is_ok()
            };
            prop_assert!((0..3).filter(|side| goes_on(*side)).count() <= 1);
        }
    }
}
