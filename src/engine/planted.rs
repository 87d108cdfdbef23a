//! Mistakes that can be planted into the engine, one at a time and for one thread, so that the simulation can show that it
//! would find them. Without the simulation there are none, and asking costs nothing.
#![forbid(unsafe_code)]

/// A mistake in the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mistake {
    /// The headers of two ranks are not compared.
    HeaderUnread,
    /// Nor are the signatures that ranks of a host exchange with their first signals.
    NoteUnread,
    /// Calls of different numbers and epochs pass for the same.
    OldCallAccepted,
    /// A receiver that found nothing does not ask to be woken.
    WakeUpLost,
    /// What links have gathered stays there when a call waits.
    FlushForgotten,
    /// Ops that touch the same bytes pass each other.
    HazardIgnored,
    /// A rank's own failure is not passed on to its calls in flight but the first.
    CallForgotten,
    /// No deadline is looked at.
    DeadlineUnread,
}

#[cfg(any(test, feature = "sim"))]
impl Mistake {
    /// All of them, with their names on the command line.
    pub(crate) const ALL: [(&'static str, Mistake); 8] = [
        ("header-unread", Mistake::HeaderUnread),
        ("note-unread", Mistake::NoteUnread),
        ("old-call-accepted", Mistake::OldCallAccepted),
        ("wake-up-lost", Mistake::WakeUpLost),
        ("flush-forgotten", Mistake::FlushForgotten),
        ("hazard-ignored", Mistake::HazardIgnored),
        ("call-forgotten", Mistake::CallForgotten),
        ("deadline-unread", Mistake::DeadlineUnread),
    ];
}

#[cfg(any(test, feature = "sim"))]
mod hotbed {
    use super::Mistake;
    use std::cell::Cell;

    thread_local! {
        static PLANTED: Cell<Option<Mistake>> = const { Cell::new(None) };
    }

    /// Plants a mistake in this thread, or none.
    pub(crate) fn plant(mistake: Option<Mistake>) {
        PLANTED.set(mistake);
    }

    #[inline]
    pub(crate) fn is_planted(mistake: Mistake) -> bool {
        PLANTED.get() == Some(mistake)
    }
}

#[cfg(any(test, feature = "sim"))]
pub(crate) use hotbed::{is_planted, plant};

#[cfg(not(any(test, feature = "sim")))]
#[inline(always)]
pub(crate) const fn is_planted(_: Mistake) -> bool {
    false
}
