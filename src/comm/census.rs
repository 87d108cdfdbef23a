//! What the ranks that live agree on, apart from how they hear of each other. A *census* counts those who live and what each
//! of them says; the control plane sees to it that all get the same count. [`shrink`](super::Communicator::shrink) and
//! [`agree`](super::Communicator::agree) are made of censuses.
#![forbid(unsafe_code)]

use super::Identity;
use crate::engine::mix;
use crate::types::Rank;

const CENSUS: u64 = u64::from_le_bytes(*b"census  ");

/// What a rank says in a census. Those who shrink and those who agree are counted together: one that has failed and is going
/// on without the dead never comes to what the others were about to agree on, and must not keep them waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Shrinks,
    Agrees(bool),
}

impl Answer {
    pub(crate) fn encode(self) -> Vec<u8> {
        vec![match self {
            Answer::Shrinks => b's',
            Answer::Agrees(true) => b'y',
            Answer::Agrees(false) => b'n',
        }]
    }

    /// What is no answer that this version knows counts as no.
    fn decode(bytes: &[u8]) -> Answer {
        match bytes.first() {
            Some(b's') => Answer::Shrinks,
            Some(b'y') => Answer::Agrees(true),
            _ => Answer::Agrees(false),
        }
    }
}

/// Names the `number`-th census of a communicator. The ranks that live hold the same censuses in the same order.
pub(crate) fn tag(comm: u64, number: u64) -> u64 {
    mix(mix(comm, CENSUS), number)
}

/// The outcome of a census: who lives, and what each of them said. Ranks are the communicator's.
pub(crate) struct Count {
    tag: u64,
    answers: Vec<(Rank, Answer)>,
}

impl Count {
    /// Of what each member gave, if it lived to.
    pub(crate) fn new(tag: u64, parts: &[Option<Vec<u8>>]) -> Count {
        let answers = parts.iter().enumerate();
        let answers = answers.filter_map(|(rank, part)| Some((rank, Answer::decode(part.as_deref()?))));
        Count { tag, answers: answers.collect() }
    }

    /// Whether all who live have agreed, and with yes.
    pub(crate) fn is_agreed(&self) -> bool {
        self.answers.iter().all(|(_, answer)| *answer == Answer::Agrees(true))
    }

    /// The communicator that those who live go on with, and who they are, of these `members`. `None` where some were still
    /// about to agree: they have their answer now, and shrink next.
    pub(crate) fn rest(&self, members: &[Rank], epoch: u32) -> Option<(Identity, Vec<Rank>)> {
        if self.answers.iter().any(|(_, answer)| *answer != Answer::Shrinks) {
            return None;
        }
        let identity = Identity { comm: mix(self.tag, 1), epoch: epoch + 1 };
        Some((identity, self.answers.iter().map(|(rank, _)| members[*rank]).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(answers: &[Option<Answer>]) -> Count {
        Count::new(tag(7, 0), &answers.iter().map(|answer| answer.map(Answer::encode)).collect::<Vec<_>>())
    }

    #[test]
    fn the_dead_have_no_say() {
        let [yes, no, shrinks] = [Answer::Agrees(true), Answer::Agrees(false), Answer::Shrinks].map(Some);
        assert!(count(&[yes, None, yes]).is_agreed() && !count(&[yes, no, yes]).is_agreed());
        assert!(!count(&[yes, None, shrinks]).is_agreed(), "who shrinks has failed");
        let (identity, rest) = count(&[shrinks, None, shrinks]).rest(&[4, 5, 9], 2).unwrap();
        assert_eq!((identity.epoch, rest), (3, vec![4, 9]));
        assert!(count(&[shrinks, None, no]).rest(&[4, 5, 9], 2).is_none());
        assert_ne!(tag(7, 0), tag(7, 1));
        let unknown = Count::new(tag(7, 0), &[Some(b"?".to_vec()), Some(Vec::new())]);
        assert!(!unknown.is_agreed() && unknown.rest(&[0, 1], 0).is_none());
    }
}
