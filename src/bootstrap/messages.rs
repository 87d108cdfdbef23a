//! What a rank and the root say to each other.
#![forbid(unsafe_code)]

use super::roster::{Roster, Seat};
use super::vigil::Rhythm;
use crate::error::{Error, OpId, Signature};
use crate::types::Rank;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// Version of the messages below; both ends of a connection must have the same.
pub(super) const CONTROL_VERSION: u16 = 7;
/// Largest world that is believed.
pub(super) const MAX_WORLD: usize = 1 << 20;

/// The first words on a connection, inside the handshake.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Knock {
    /// A rank of a job that has not started.
    Hello(Hello),
    /// A rank of a job that runs, whose root is gone: is the next one here?
    Return(Return),
    /// Somebody who wants to become a rank of a job that runs.
    Enlist(Enlist),
}

/// Says who wants to join.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Enlist {
    /// [`CONTROL_VERSION`] of the newcomer.
    pub version: u16,
    /// Which job it wants to belong to.
    pub job: [u8; 16],
    /// Drawn for this newcomer: a second connection with the same nonce takes the place of the first.
    pub nonce: u64,
    /// How its connections are protected: a [`crate::transport::tcp::Guard`].
    pub guard: u8,
    /// The [`super::StoreChoice`] it was given, in words.
    pub store: String,
}

/// How a newcomer becomes a rank.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Admission {
    /// Its number in the job.
    pub rank: Rank,
    /// All who are admitted together, this one included.
    pub recruits: Vec<Rank>,
    /// What the members that admit them say, the lowest of them speaking.
    pub offer: Vec<u8>,
    /// Where everybody is.
    pub roster: Roster,
    /// Who is gone.
    pub gone: Vec<(Rank, Gone)>,
    /// Ranks in the root's process.
    pub beside_root: Vec<Rank>,
    /// Which root this is.
    pub reign: u32,
}

/// Says who comes back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Return {
    /// [`CONTROL_VERSION`] of the rank.
    pub version: u16,
    /// Which job it belongs to.
    pub job: [u8; 16],
    /// Who it is.
    pub rank: Rank,
    /// The reign that has ended, as far as it knows.
    pub reign: u32,
}

/// What a rank knows that the next root must know too.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Report {
    /// Who is gone, and how.
    pub gone: Vec<(Rank, Gone)>,
    /// Communicators that have failed.
    pub revoked: Vec<(u64, Error)>,
    /// Exchanges whose outcome it has; others may still wait for it.
    pub finished: Vec<ExchangeId>,
}

/// The first words of a rank, inside the handshake.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Hello {
    /// [`CONTROL_VERSION`] of the rank.
    pub version: u16,
    /// Which job it belongs to.
    pub job: [u8; 16],
    /// Who it is.
    pub rank: Rank,
    /// How many ranks it expects.
    pub world: usize,
    /// The process it lives in ([`crate::topology::detect::process_id`]).
    pub process: u64,
    /// Drawn for this join: a second connection with the same nonce is the same rank trying again.
    pub nonce: u64,
    /// How often it will say that it lives, and how long it lets others be silent.
    pub rhythm: Rhythm,
    /// How long its join may take in all.
    pub timeout_ms: u64,
    /// How much of that is left.
    pub remaining_ms: u64,
    /// How its connections are protected: a [`crate::transport::tcp::Guard`].
    pub guard: u8,
    /// The [`super::StoreChoice`] it was given, in words.
    pub store: String,
}

/// Why the root does not let a rank in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Refusal {
    /// Another root may be the right one: this one serves another job, or a job that is already complete.
    NotHere(String),
    /// The rank is wrong wherever it goes.
    Wrong(String),
}

/// The exchange that a tag and a list of members name; every member derives it alike.
pub(super) type ExchangeId = [u8; 16];

/// Whose contributions an exchange needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Terms {
    /// Those of all members: it fails when one of them is gone.
    All,
    /// Those of the members that live: it goes on without the others, unless these may be going on without it.
    Living,
    /// Those of all members; and whoever waits to join is admitted. To the parts one is added: the numbers that the newcomers
    /// got ([`encode_ranks`]).
    Growing,
}

/// How far a rank has come on a communicator.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reached {
    /// The latest collective that it has entered.
    pub entered: Option<OpId>,
    /// Bytes that it has moved so far, in all.
    pub moved_bytes: u64,
}

/// What a rank tells the root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum ToRoot {
    /// Its part of an exchange among `members`.
    Contribute { exchange: ExchangeId, members: Vec<Rank>, terms: Terms, bytes: Vec<u8> },
    /// Its deadline for that exchange has passed.
    GiveUp { exchange: ExchangeId },
    /// A communicator failed.
    Revoke { comm: u64, error: Error },
    /// It has been waiting for a while inside this call, for these. Ranks are the communicator's.
    Stalled { comm: u64, rank: Rank, signature: Signature, waiting_for: Vec<Rank> },
    /// It found a data link to that rank broken.
    Lost { rank: Rank, what: String },
    /// Where it can be found if the root is gone.
    Seat(Seat),
    /// It lives.
    Alive,
    /// How far it has come on each of its communicators, where that has changed since it last said so.
    Standing(Vec<(u64, Reached)>),
    /// It has come back from a root that is gone. What it was waiting for follows.
    Report(Report),
    /// The outcome of an exchange that it was asked for.
    Recalled { exchange: ExchangeId, parts: Parts },
    /// It has given up this root, which fell silent, and looks for another; `is_certain` when it was seen to be stopped.
    Deposed { is_certain: bool },
    /// It leaves in good order; nothing follows.
    Bye,
}

/// What the root tells a rank.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum FromRoot {
    /// Go away.
    Refused(Refusal),
    /// Everybody is here. `beside_root` are the ranks in the root's own process: they die with it.
    Start { beside_root: Vec<Rank> },
    /// The join, and with it the job, has failed.
    Failed { error: Error },
    /// What the `index`-th member contributed to an exchange, if it lived to. Parts come when all are there.
    Part { exchange: ExchangeId, index: usize, bytes: Option<Vec<u8>> },
    /// An exchange will not complete.
    ExchangeFailed { exchange: ExchangeId, error: ExchangeError },
    /// A communicator failed.
    Revoked { comm: u64, error: Error },
    /// A rank is gone. It may be the one that is told: the others have given it up.
    Gone { rank: Rank, how: Gone },
    /// Where ranks can be found if the root is gone: all of them at first, later those who join.
    Roster(Roster),
    /// The root lives.
    Alive,
    /// The root is the successor of one that is gone. `beside_root` are the ranks in its process.
    Reign { reign: u32, beside_root: Vec<Rank> },
    /// This rank has the outcome of an exchange that others still wait for.
    Recall { exchange: ExchangeId },
    /// Not this process is the root but the one at that address.
    Elsewhere { address: SocketAddr },
    /// This newcomer is a rank now.
    Admitted(Box<Admission>),
    /// The root was given up by others while it was silent, and so was its process.
    Deposed,
}

/// How a rank went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Gone {
    /// Said goodbye.
    Left,
    /// Its process has ended, or is stopped and will be told before it goes on. The root that it followed saw it, so it is
    /// known what it had taken part in.
    Dead(String),
    /// Its process was found to have ended while there was no root to see it. What it had taken part in is not known: others
    /// may have gone on with it. `in_good_order` when it has left, most likely.
    Ended { what: String, in_good_order: bool },
    /// Likewise its process was found to be stopped. Nobody has told it.
    Stopped(String),
    /// It cannot be reached, or was given up; its process may live.
    Silent(String),
}

impl Gone {
    pub(super) fn words(&self) -> String {
        match self {
            Gone::Left | Gone::Ended { in_good_order: true, .. } => "left".to_string(),
            Gone::Dead(what) | Gone::Ended { what, .. } | Gone::Stopped(what) | Gone::Silent(what) => what.clone(),
        }
    }

    pub(super) fn has_left(&self) -> bool {
        matches!(self, Gone::Left | Gone::Ended { in_good_order: true, .. })
    }

    /// It will not act any more.
    pub(super) fn has_ended(&self) -> bool {
        matches!(self, Gone::Left | Gone::Dead(_) | Gone::Ended { .. })
    }

    /// The same of one that is not told.
    pub(super) fn untold(self) -> Gone {
        match self {
            Gone::Dead(what) => Gone::Stopped(what),
            how => how,
        }
    }

    /// The same in the light of later news, where these are surer. The first words stay.
    pub(super) fn in_the_light_of(&self, later: &Gone) -> Option<Gone> {
        (later.certainty() > self.certainty()).then(|| match (self, later) {
            (_, Gone::Stopped(_)) => Gone::Stopped(self.words()),
            (_, Gone::Ended { in_good_order, .. }) => Gone::Ended { what: self.words(), in_good_order: *in_good_order },
            _ => self.settled(),
        })
    }

    /// The same where nothing is in doubt any more.
    pub(super) fn settled(&self) -> Gone {
        if self.has_left() { Gone::Left } else { Gone::Dead(self.words()) }
    }

    fn certainty(&self) -> u8 {
        match self {
            Gone::Silent(_) => 0,
            Gone::Stopped(_) => 1,
            Gone::Ended { .. } => 2,
            Gone::Left | Gone::Dead(_) => 3,
        }
    }
}

/// Of each member of an exchange, what it contributed, if it lived to.
pub(super) type Parts = Vec<Option<Vec<u8>>>;

/// Why an exchange failed, the same for all its members.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum ExchangeError {
    /// The deadline of one member passed; these had not contributed.
    Late { missing: Vec<Rank> },
    /// This member can no longer contribute.
    Gone { rank: Rank, what: String },
    /// These members cannot be reached, are not known to be dead, and are too many to go on without.
    Minority { doubtful: Vec<Rank> },
    /// The same members; and the job's store did not let this part go on without them.
    NotGranted { doubtful: Vec<Rank>, why: String },
}

/// Ranks as a part of an exchange.
pub(super) fn encode_ranks(ranks: &[Rank]) -> Vec<u8> {
    ranks.iter().flat_map(|rank| (*rank as u64).to_le_bytes()).collect()
}

/// What [`encode_ranks`] wrote.
pub(super) fn decode_ranks(bytes: &[u8]) -> Vec<Rank> {
    bytes.as_chunks().0.iter().map(|rank| u64::from_le_bytes(*rank) as Rank).collect()
}
