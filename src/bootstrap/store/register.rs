//! What a job keeps in a store: who has been given up, and where the root is. A few hundred bytes, changed in one step or not
//! at all, so that of several parts that change it only one can be the first.
//!
//! ```text
//!   0 and 1 ask to go on without 2 and 3:     nobody of 0 1 was given up     granted; from now on 2 and 3 are
//!   2 and 3 ask to go on without 0 and 1:     2 and 3 were                   denied, now and for ever
//! ```
//!
//! So those who were not given up are always of one part, with one root after the other. A member is a rank *and* its
//! process: parts that lost each other may give the same number to different newcomers.
#![forbid(unsafe_code)]

use crate::types::Rank;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

/// Version of what is written below.
const VERSION: u32 = 1;
/// Doors that are written down: enough that some of them live on.
pub(in super::super) const MAX_DOORS: usize = 64;

/// All that a job keeps in a store. No secrets: who reads it knows where the job is, and no more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in super::super) struct Register {
    version: u32,
    /// Who may not go on.
    expelled: BTreeSet<Member>,
    /// Of the last root that was entitled to write it.
    way: Option<Way>,
}

/// A rank, and the process that it lives in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub(in super::super) struct Member {
    pub rank: Rank,
    /// [`crate::topology::detect::process_id`].
    pub process: u64,
}

/// Where a job can be found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in super::super) struct Way {
    /// The root's reign.
    pub reign: u32,
    /// Ranks that show the way to it.
    pub doors: Vec<SocketAddr>,
}

/// A part of a job asks to go on without the rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct Appeal {
    /// Who asks.
    pub living: Vec<Member>,
    /// Who cannot be reached and is not known to be dead; nobody where a new root wants to know how it stands.
    pub doubtful: Vec<Member>,
    /// The doubtful are more, or as many and with the lowest rank: by their numbers alone they would go on.
    pub is_outnumbered: bool,
}

/// What comes of it when a root writes down where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Entry {
    Written,
    /// A later root has written.
    Late,
    /// The part of this root was given up.
    GivenUp,
}

impl Default for Register {
    fn default() -> Register {
        Register { version: VERSION, expelled: BTreeSet::new(), way: None }
    }
}

impl Register {
    /// True when it is granted: then the doubtful are given up, and who asked is to be found that way.
    pub(in super::super) fn expel(&mut self, appeal: &Appeal, way: &Way) -> bool {
        if self.has_expelled_any(&appeal.living) {
            return false;
        }
        self.expelled.extend(&appeal.doubtful);
        self.way = Some(way.clone());
        true
    }

    /// A root, followed by `living`, says where it is.
    pub(in super::super) fn publish(&mut self, living: &[Member], way: &Way) -> Entry {
        if self.has_expelled_any(living) {
            return Entry::GivenUp;
        }
        if self.way.as_ref().is_some_and(|known| known.reign > way.reign) {
            return Entry::Late;
        }
        self.way = Some(way.clone());
        Entry::Written
    }

    /// Where the job is, as far as is known.
    pub(in super::super) fn doors(&self) -> &[SocketAddr] {
        self.way.as_ref().map_or(&[], |way| &way.doors)
    }

    /// True when nobody can come any more who would have to find it.
    pub(in super::super) fn is_dispensable(&self) -> bool {
        self.expelled.is_empty()
    }

    fn has_expelled_any(&self, members: &[Member]) -> bool {
        members.iter().any(|member| self.expelled.contains(member))
    }
}

/// `3@00c0ffee00c0ffee`.
impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{:016x}", self.rank, self.process)
    }
}

impl FromStr for Member {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Member, &'static str> {
        let parse = || {
            let (rank, process) = text.split_once('@')?;
            Some(Member { rank: rank.parse().ok()?, process: u64::from_str_radix(process, 16).ok()? })
        };
        parse().ok_or("not a rank and its process")
    }
}

impl From<Member> for String {
    fn from(member: Member) -> String {
        member.to_string()
    }
}

impl TryFrom<String> for Member {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Member, &'static str> {
        text.parse()
    }
}

/// As it is written where others can read it.
#[cfg(feature = "etcd")]
mod text {
    use super::{MAX_DOORS, Register, VERSION};
    use crate::error::{Error, Result};

    impl Register {
        pub(in super::super::super) fn to_text(&self) -> Result<String> {
            serde_json::to_string(self).map_err(|error| Error::bootstrap(format!("the job's register: {error}")))
        }

        pub(in super::super::super) fn from_text(text: &[u8]) -> Result<Register> {
            let wrong = |what: String| Error::bootstrap(format!("the job's register in the store {what}"));
            let register: Register =
                serde_json::from_slice(text).map_err(|error| wrong(format!("makes no sense: {error}")))?;
            match &register {
                Register { version, .. } if *version != VERSION => {
                    Err(wrong(format!("is of version {version}, this library writes {VERSION}")))
                }
                Register { way: Some(way), .. } if way.doors.len() > MAX_DOORS => {
                    Err(wrong(format!("names {} doors, more than {MAX_DOORS}", way.doors.len())))
                }
                _ => Ok(register),
            }
        }
    }
}

#[cfg(test)]
pub(in super::super) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(in super::super::super) fn member(rank: Rank) -> Member {
        Member { rank, process: 100 + rank as u64 }
    }

    fn appeal(living: &[Rank], doubtful: &[Rank]) -> Appeal {
        let members = |ranks: &[Rank]| ranks.iter().copied().map(member).collect();
        Appeal { living: members(living), doubtful: members(doubtful), is_outnumbered: false }
    }

    pub(in super::super::super) fn way(reign: u32) -> Way {
        Way { reign, doors: vec![([10, 0, 0, 1], 1000 + reign as u16).into()] }
    }

    #[test]
    fn the_first_part_that_asks_goes_on_and_is_the_one_that_is_found() {
        let mut register = Register::default();
        assert_eq!(register.publish(&[member(0), member(1)], &way(0)), Entry::Written);
        assert_eq!(register.publish(&[member(2), member(3)], &way(1)), Entry::Written, "nobody has asked yet");
        assert_eq!(register.publish(&[member(0), member(1)], &way(0)), Entry::Late);
        assert!(register.expel(&appeal(&[0, 1], &[2, 3]), &way(0)));
        assert_eq!(register.doors(), way(0).doors);
        assert!(!register.expel(&appeal(&[2, 3], &[0, 1]), &way(1)));
        assert_eq!(register.publish(&[member(2), member(3)], &way(2)), Entry::GivenUp);
        assert!(register.expel(&appeal(&[0, 1], &[2, 3]), &way(0)), "who asks again gets the same answer");
        assert_eq!(register.publish(&[member(1)], &way(1)), Entry::Written);
        assert!(!register.is_dispensable());
    }

    #[test]
    fn a_newcomer_with_the_number_of_one_that_was_given_up_is_another() {
        let mut register = Register::default();
        assert!(register.expel(&appeal(&[0], &[1, 2]), &way(0)));
        let newcomer = Member { rank: 1, process: 7 };
        assert_eq!(register.publish(&[member(0), newcomer], &way(1)), Entry::Written);
    }

    proptest! {
        /// However a job falls apart, again and again, and in whatever order its parts ask, as often as they like: those who
        /// are granted to go on never include one who was given up before, and two parts never both go on.
        #[test]
        fn those_who_go_on_are_of_one_part(
            splits in proptest::collection::vec(proptest::collection::vec(0u8..3, 8), 1..4),
            order in proptest::collection::vec((0usize..4, 0u8..3), 1..40),
        ) {
            let mut register = Register::default();
            // Parts within parts: a rank's part after so many cuts is named by all of them.
            let part = |rank: usize, cuts: usize| splits[..cuts].iter().map(|split| split[rank]).collect::<Vec<_>>();
            let mut granted: Vec<(usize, Vec<u8>)> = Vec::new();
            for (cuts, side) in order {
                let cuts = 1 + cuts % splits.len();
                let Some(name) = (0..8).map(|rank| part(rank, cuts)).find(|name| name[cuts - 1] == side) else { continue };
                let (living, doubtful): (Vec<Rank>, Vec<Rank>) = (0..8).partition(|rank| part(*rank, cuts) == name);
                if register.expel(&appeal(&living, &doubtful), &way(0)) {
                    granted.push((cuts, name));
                }
            }
            for (cuts, name) in &granted {
                for (other_cuts, other) in &granted {
                    let shared = *cuts.min(other_cuts);
                    prop_assert_eq!(&name[..shared], &other[..shared], "one is a part of the other");
                }
            }
        }

        #[cfg(feature = "etcd")]
        #[test]
        fn it_is_read_as_it_was_written(
            expelled in proptest::collection::btree_set((0usize..1000, any::<u64>()), 0..20), reign in any::<u32>(),
        ) {
            let expelled = expelled.into_iter().map(|(rank, process)| Member { rank, process }).collect();
            let register = Register { expelled, way: Some(Way { reign, ..way(3) }), ..Register::default() };
            let text = register.to_text().unwrap();
            prop_assert_eq!(Register::from_text(text.as_bytes()).unwrap(), register);
        }
    }

    #[cfg(feature = "etcd")]
    #[test]
    fn what_another_version_wrote_is_an_error() {
        for (text, why) in [
            (r#"{"version":2,"expelled":[],"way":null}"#, "version 2"),
            (r#"{"version":1,"expelled":["3"],"way":null}"#, "makes no sense"),
            ("", "makes no sense"),
        ] {
            let error = Register::from_text(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
        let text = Register::default().to_text().unwrap();
        assert_eq!(text, r#"{"version":1,"expelled":[],"way":null}"#);
    }
}
