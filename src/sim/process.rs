//! One simulated process: a rank of the job, what it has heard from the control plane, and what it is doing.
#![forbid(unsafe_code)]

use super::agenda::{Event, HubId};
use super::recovery::Census;
use super::session::Session;
use crate::bootstrap::Listener;
use crate::bootstrap::simulated::{MemberSide, News};
use crate::comm::watch::Watch;
use crate::transport::Interest;
use crate::types::Rank;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether a process runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Life {
    Runs,
    /// Stopped: its kernel goes on receiving for it.
    Frozen,
    Dead,
    /// Said goodbye.
    Left,
}

/// What a process is doing.
pub(super) enum Doing {
    /// Making calls.
    Calls,
    /// All calls have ended well.
    Done,
    /// Agreeing with the others on how it went, or on who goes on.
    Agrees(Box<Census>),
    /// Gave up.
    Out,
}

/// A rank of the job.
pub(super) struct Process {
    pub(super) life: Life,
    pub(super) doing: Doing,
    pub(super) session: Option<Session>,
    /// Turns with another number are stale.
    pub(super) turn: u64,
    pub(super) is_asleep: bool,
    pub(super) interests: Vec<Interest>,
    /// What came for it while it was frozen.
    pub(super) missed: Vec<Event>,
    /// Its side of the control plane, and the root it follows.
    pub(super) member: MemberSide,
    pub(super) root: Option<HubId>,
    /// The root-to-be that has let it in, and was told what it knows.
    pub(super) next_root: Option<HubId>,
    /// The exchange that it waits for.
    pub(super) exchange: Option<[u8; 16]>,
    /// Searches for a root so far.
    pub(super) attempt: u64,
    /// No root is left for it.
    pub(super) is_alone: bool,
    /// The one that it takes for the next root, and since when.
    pub(super) tries: Option<(Rank, u64)>,
    /// When its patience with an answer ends.
    pub(super) patient_until: u64,
    /// It would leave, and has no root to tell.
    pub(super) leaves_since: Option<u64>,
    /// Frozen for a while only.
    pub(super) thaws: bool,
    watch: Option<Watch>,
    is_woken: Arc<AtomicBool>,
}

impl Process {
    pub(super) fn new(member: MemberSide, root: HubId) -> Process {
        Process {
            life: Life::Runs,
            doing: Doing::Calls,
            session: None,
            turn: 0,
            is_asleep: false,
            interests: Vec::new(),
            missed: Vec::new(),
            member,
            root: Some(root),
            next_root: None,
            exchange: None,
            attempt: 0,
            is_alone: false,
            tries: None,
            patient_until: 0,
            leaves_since: None,
            thaws: false,
            watch: None,
            is_woken: Arc::default(),
        }
    }

    /// Enters a communicator, and is told what has happened before.
    pub(super) fn enter(&mut self, session: Session) {
        let is_woken = self.is_woken.clone();
        // Relaxed, here and below: one thread.
        let wake = Box::new(move || is_woken.store(true, Ordering::Relaxed));
        let watch = Watch { fate: session.fate.clone(), pace: Arc::default(), members: session.members.clone(), wake };
        let comm = session.comm;
        self.watch = Some(watch);
        self.session = Some(session);
        self.doing = Doing::Calls;
        let so_far = self.member.so_far(comm);
        self.tell(so_far);
    }

    /// Drops its communicator.
    pub(super) fn drop_session(&mut self) -> Option<Session> {
        self.watch = None;
        self.session.take()
    }

    /// Tells its communicator what has happened.
    pub(super) fn tell(&self, news: Vec<News>) {
        let (Some(watch), Some(session)) = (&self.watch, &self.session) else { return };
        for news in news {
            match news {
                News::Lost(rank, what) => watch.peer_lost(rank, &what),
                News::Left(rank) => watch.peer_left(rank),
                News::Revoked(comm, error) if comm == session.comm => watch.revoked(comm, &error),
                News::Revoked(..) => {}
            }
        }
    }

    /// Whether news have woken its driver since this was last asked.
    pub(super) fn was_woken(&self) -> bool {
        self.is_woken.swap(false, Ordering::Relaxed)
    }

    /// Whether nothing more is to be expected of it.
    pub(super) fn is_at_rest(&self) -> bool {
        matches!(self.life, Life::Dead | Life::Left) || matches!(self.doing, Doing::Done | Doing::Out)
    }
}
