//! A rank's own door. Nobody needs it while the root lives; when the root is gone, the others knock here if this rank may
//! be the next one.
#![forbid(unsafe_code)]

use super::gate::Gate;
use super::member::Shared;
use super::messages::{CONTROL_VERSION, FromRoot, Gone, Knock, Refusal, Return};
use super::wire::Caller;
use crate::types::Rank;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

/// Whoever waits here that long has long tried elsewhere.
const PARKED_FOR: Duration = Duration::from_secs(30);

/// A rank that takes this one for the next root, before this one knows that the old one is gone.
pub(super) struct Parked {
    pub caller: Caller,
    pub who: Return,
    since: Instant,
}

pub(super) struct Standby {
    gate: Option<Gate>,
    job: [u8; 16],
    parked: Vec<Parked>,
}

impl Standby {
    pub(super) fn new(gate: Gate, job: [u8; 16]) -> Standby {
        Standby { gate: Some(gate), job, parked: Vec::new() }
    }

    /// What to poll for reading.
    pub(super) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.gate.iter().flat_map(Gate::fds)
    }

    /// When to look again although nothing came.
    pub(super) fn wakes_at(&self) -> Option<Instant> {
        self.gate.as_ref().and_then(Gate::wakes_at)
    }

    /// Lets in who knocks, and answers those who can be answered. `root` is where the root is that this rank follows.
    pub(super) fn serve(&mut self, shared: &Shared, root: Option<SocketAddr>) {
        let Some(gate) = &mut self.gate else { return };
        for (caller, knock) in gate.arrivals() {
            match knock {
                Knock::Return(who) if who.job == self.job && who.version == CONTROL_VERSION => {
                    self.parked.push(Parked { caller, who, since: Instant::now() });
                }
                // The root is the one to ask.
                Knock::Enlist(who) if who.job == self.job && who.version == CONTROL_VERSION => {
                    if let Some(address) = root {
                        caller.say(&FromRoot::Elsewhere { address });
                    }
                }
                knock => {
                    tracing::warn!(?knock, "somebody who does not belong here was turned away");
                    let why = "the job that you look for does not begin here".to_string();
                    caller.say(&FromRoot::Refused(Refusal::NotHere(why)));
                }
            }
        }
        for parked in std::mem::take(&mut self.parked) {
            match answer(shared, root, &parked.who) {
                Some(message) => parked.caller.say(&message),
                None if parked.since.elapsed() < PARKED_FOR => self.parked.push(parked),
                None => {}
            }
        }
    }

    /// Hands everything over to the root that this rank now becomes; nothing the second time.
    pub(super) fn hand_over(&mut self) -> Option<(Vec<TcpListener>, Vec<Parked>)> {
        let listeners = self.gate.take()?.into_listeners();
        Some((listeners, std::mem::take(&mut self.parked)))
    }
}

/// What there is to say to `who`: nothing as long as it may be right.
fn answer(shared: &Shared, root: Option<SocketAddr>, who: &Return) -> Option<FromRoot> {
    shared.knows(|knowledge| match (knowledge.gone().get(&who.rank), root) {
        (Some(how), _) => Some(FromRoot::Gone { rank: who.rank, how: how.clone() }),
        (None, Some(address)) if knowledge.reign() > who.reign => Some(FromRoot::Elsewhere { address }),
        _ => None,
    })
}

/// How others see a rank that fell silent.
pub(super) fn silence(rank: Rank, is_still: bool, how_long: Duration) -> Gone {
    let seconds = super::Seconds(how_long);
    tracing::warn!(rank, is_still, "no sign of life for {seconds}");
    match is_still {
        true => Gone::Dead(format!("is stopped or dead (no sign of life for {seconds})")),
        false => Gone::Silent(format!("has given no sign of life for {seconds}: frozen, cut off or starved")),
    }
}
