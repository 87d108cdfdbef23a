//! Between the root and its store. The root must not wait (everybody waits for its signs of life), so a thread of its own does:
//! errands go to it, reports come back.
//!
//! A part that has its numbers against it asks later than the others: where both parts of a cut network reach the store, the
//! one that would have gone on without a store does, as a rule.
#![forbid(unsafe_code)]

use super::choice::Shelf;
use super::register::Entry;
use super::{Appeal, Member, Ruling, Store, StoreChoice, Way};
use crate::bootstrap::ledger::{Ledger, Mail};
use crate::bootstrap::vigil::Rhythm;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

/// How long a store is asked for a ruling: that of an etcd which has lost its leader comes within a few seconds.
const ASK_FOR: Duration = Duration::from_secs(10);
/// The same for what nobody waits for, and may be tried again.
const PUBLISH_FOR: Duration = Duration::from_secs(2);
/// Between two attempts at that.
const PUBLISH_AGAIN: Duration = Duration::from_secs(5);
/// How long the last rank's goodbye may wait for the register to be removed.
const RETIRE_FOR: Duration = Duration::from_secs(1);

/// What the thread is to do.
enum Errand {
    Appeal(Appeal, Way),
    Publish(Vec<Member>, Way),
    Retire,
}

/// What came of it.
enum Report {
    Ruling(Appeal, Ruling),
    Entry(Way, crate::error::Result<Entry>),
    Retired,
}

/// What the root is to know.
#[derive(Debug, PartialEq, Eq)]
enum News {
    Ruling(Appeal, Ruling),
    /// This root's part of the job was given up before it began to reign.
    GivenUp,
}

/// What the root wants now.
#[derive(Debug, Clone, Default)]
struct Wishes {
    /// To go on without some.
    appeal: Option<Appeal>,
    /// To be found there, followed by these; none before everybody is known.
    publication: Option<(Vec<Member>, Way)>,
}

pub(in super::super) struct Clerk {
    errands: Sender<Errand>,
    reports: Receiver<Report>,
    /// Readable when there is a report.
    woken: UnixStream,
    rhythm: Rhythm,
    is_out: bool,
    /// Since when there is an appeal.
    appeals_since: Option<Instant>,
    published: Option<Way>,
    publish_at: Option<Instant>,
    /// When to look at the root's wishes again although they are the same.
    look_at: Option<Instant>,
    /// The ledger's marks at the last look.
    marks: Option<[usize; 4]>,
}

impl Clerk {
    /// One for the store of `choice`, where that is one.
    pub(in super::super) fn open(choice: &StoreChoice, job: [u8; 16], run: u64, rhythm: Rhythm) -> Option<Clerk> {
        let opened = choice.open(Shelf { job, run }).and_then(|store| {
            let no_start = |error| crate::error::Error::system("starting the thread that asks the store", error);
            store.map(|store| Clerk::start(store, rhythm).map_err(no_start)).transpose()
        });
        opened.unwrap_or_else(|error| {
            tracing::error!(%error, "the job's store cannot be asked");
            None
        })
    }

    /// One that runs errands to `store`, until it is dropped and the last errand done.
    fn start(store: Box<dyn Store>, rhythm: Rhythm) -> std::io::Result<Clerk> {
        let (errands, todo) = channel();
        let (report, reports) = channel();
        let (woken, waker) = UnixStream::pair()?;
        woken.set_nonblocking(true)?;
        waker.set_nonblocking(true)?;
        let run = move || {
            for errand in todo {
                if report.send(perform(&*store, errand)).is_err() {
                    return;
                }
                // A full pipe wakes just as well.
                let _ = (&waker).write(&[0]);
            }
        };
        std::thread::Builder::new().name("roundel-store".into()).spawn(run)?;
        Ok(Clerk {
            errands,
            reports,
            woken,
            rhythm,
            is_out: false,
            appeals_since: None,
            published: None,
            publish_at: None,
            look_at: None,
            marks: None,
        })
    }

    /// What to poll for reading.
    pub(in super::super) fn fd(&self) -> BorrowedFd<'_> {
        self.woken.as_fd()
    }

    /// When to look again although nothing came.
    pub(in super::super) fn wakes_at(&self) -> Option<Instant> {
        self.look_at
    }

    /// Tells the ledger what the store has said, and the store what the ledger wishes. False when this root, in its `reign`, is
    /// to be given up.
    pub(in super::super) fn consult(&mut self, ledger: &mut Ledger, reign: u32, now: Instant, mail: &mut Mail) -> bool {
        let mut stands = true;
        for news in self.news(now) {
            match news {
                News::Ruling(appeal, ruling) => stands &= ledger.hear_ruling(&appeal, ruling, mail),
                News::GivenUp => ledger.lose_job(mail),
            }
        }
        let marks = Some(ledger.store_marks());
        if self.marks != marks || self.look_at.is_some_and(|at| at <= now) {
            self.marks = marks;
            self.attend(Wishes { appeal: ledger.appeal(), publication: ledger.publication(reign) }, now);
        }
        stands
    }

    /// Hears what came back.
    fn news(&mut self, now: Instant) -> Vec<News> {
        let mut scrap = [0; 64];
        while matches!((&self.woken).read(&mut scrap), Ok(read_bytes) if read_bytes > 0) {}
        let reports: Vec<Report> = self.reports.try_iter().collect();
        reports.into_iter().filter_map(|report| self.hear(report, now)).collect()
    }

    fn hear(&mut self, report: Report, now: Instant) -> Option<News> {
        self.is_out = false;
        self.look_at = Some(now);
        match report {
            Report::Ruling(appeal, ruling) => {
                match &ruling {
                    Ruling::Granted => tracing::warn!(?appeal, "the store lets this part of the job go on"),
                    Ruling::Denied => tracing::warn!(?appeal, "the store has given up this part of the job"),
                    Ruling::Silent(why) => tracing::error!(why, "the store does not say who goes on"),
                }
                self.appeals_since = None;
                return Some(News::Ruling(appeal, ruling));
            }
            Report::Entry(way, Ok(Entry::Written | Entry::Late)) => self.published = Some(way),
            Report::Entry(way, Ok(Entry::GivenUp)) => {
                self.published = Some(way);
                return Some(News::GivenUp);
            }
            Report::Entry(_, Err(error)) => {
                tracing::warn!(%error, "the store does not know where the root is now; it is told later");
                self.publish_at = Some(now + PUBLISH_AGAIN);
            }
            Report::Retired => {}
        }
        None
    }

    /// Sends the thread on the next errand, if it is time for one.
    fn attend(&mut self, wishes: Wishes, now: Instant) {
        self.look_at = None;
        let Wishes { appeal, publication } = wishes;
        if appeal.is_none() {
            self.appeals_since = None;
        }
        if self.is_out {
            return;
        }
        if let (Some(appeal), Some((_, way))) = (appeal, &publication) {
            let due = *self.appeals_since.get_or_insert(now) + self.reserve(&appeal);
            if due <= now {
                return self.send(Errand::Appeal(appeal, way.clone()));
            }
            self.look_at = Some(due);
        }
        let Some((living, way)) = publication.filter(|(_, way)| self.is_worth_publishing(way)) else { return };
        match self.publish_at.filter(|at| *at > now) {
            Some(at) => self.look_at = self.look_at.into_iter().chain([at]).min(),
            None => self.send(Errand::Publish(living, way)),
        }
    }

    /// How long an appeal waits for others who fall silent at the same time, and for a part that is larger.
    fn reserve(&self, appeal: &Appeal) -> Duration {
        let Rhythm { interval, timeout } = self.rhythm;
        match appeal {
            // Everybody else is dead, and a new root asks whether it was given up before they died.
            Appeal { doubtful, .. } if doubtful.is_empty() => Duration::ZERO,
            Appeal { is_outnumbered: false, .. } => interval,
            Appeal { is_outnumbered: true, .. } => interval + timeout,
        }
    }

    /// Another root, new doors, or too few of the old ones left.
    fn is_worth_publishing(&self, way: &Way) -> bool {
        let Some(known) = &self.published else { return true };
        let left = known.doors.iter().filter(|door| way.doors.contains(door)).count();
        let is_full = known.doors.len() >= super::MAX_DOORS;
        let has_new = way.doors.iter().any(|door| !known.doors.contains(door));
        known.reign != way.reign || 2 * left < known.doors.len() || (has_new && !is_full)
    }

    fn send(&mut self, errand: Errand) {
        // Its thread ends after this end of the channel.
        self.is_out = self.errands.send(errand).is_ok();
    }

    /// The last rank has left in good order. Blocks until the register is removed, or for a moment.
    pub(in super::super) fn retire(&mut self) {
        self.send(Errand::Retire);
        let deadline = Instant::now() + RETIRE_FOR;
        while let Ok(report) = self.reports.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            if let Report::Retired = report {
                return;
            }
        }
    }
}

fn perform(store: &dyn Store, errand: Errand) -> Report {
    let now = Instant::now();
    match errand {
        Errand::Appeal(appeal, way) => {
            let ruling = super::rule(store, &appeal, &way, now + ASK_FOR);
            Report::Ruling(appeal, ruling)
        }
        Errand::Publish(living, way) => {
            let entry = super::publish(store, &living, &way, now + PUBLISH_FOR);
            Report::Entry(way, entry)
        }
        Errand::Retire => {
            if let Err(error) = super::retire(store, now + RETIRE_FOR) {
                tracing::warn!(%error, "the job's register stays in the store");
            }
            Report::Retired
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory::Memory;
    use super::super::register::tests::{member, way};
    use super::super::{Held, Revision, find};
    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    fn clerk(store: &Memory) -> Clerk {
        Clerk::start(Box::new(store.clone()), Rhythm::default()).unwrap()
    }

    fn appeal(living: &[usize], doubtful: &[usize], is_outnumbered: bool) -> Appeal {
        let members = |ranks: &[usize]| ranks.iter().copied().map(member).collect();
        Appeal { living: members(living), doubtful: members(doubtful), is_outnumbered }
    }

    fn wishes(appeal: Option<Appeal>, reign: u32, living: &[usize]) -> Wishes {
        Wishes { appeal, publication: Some((living.iter().copied().map(member).collect(), way(reign))) }
    }

    /// Waits for the thread, as the root does with `poll`, until there are news or it has nothing to do.
    fn until_back(clerk: &mut Clerk) -> Vec<News> {
        let deadline = soon();
        while clerk.is_out {
            assert!(Instant::now() < deadline);
            let fd = nix::poll::PollFd::new(clerk.fd(), nix::poll::PollFlags::POLLIN);
            crate::bootstrap::sleep_until(&mut [fd], Some(deadline));
            let news = clerk.news(Instant::now());
            if !news.is_empty() {
                return news;
            }
        }
        Vec::new()
    }

    #[test]
    fn the_larger_part_asks_first_and_the_other_is_denied() {
        let store = Memory::default();
        let (mut small, mut large) = (clerk(&store), clerk(&store));
        let began = Instant::now();
        for (clerk, ranks, others, is_outnumbered) in
            [(&mut small, &[0][..], &[1, 2][..], true), (&mut large, &[1, 2], &[0], false)]
        {
            let reign = u32::from(!is_outnumbered);
            clerk.attend(wishes(None, reign, ranks), began);
            assert_eq!(until_back(clerk), []);
            clerk.attend(wishes(Some(appeal(ranks, others, is_outnumbered)), reign, ranks), began);
            assert!(!clerk.is_out, "others may fall silent");
        }
        let Rhythm { interval, timeout } = Rhythm::default();
        assert_eq!(large.wakes_at(), Some(began + interval));
        assert_eq!(small.wakes_at(), Some(began + interval + timeout));
        large.attend(wishes(Some(appeal(&[1, 2], &[0], false)), 1, &[1, 2]), began + interval);
        assert!(matches!(until_back(&mut large)[..], [News::Ruling(_, Ruling::Granted)]));
        small.attend(wishes(Some(appeal(&[0], &[1, 2], true)), 0, &[0]), began + interval + timeout);
        assert!(matches!(until_back(&mut small)[..], [News::Ruling(_, Ruling::Denied)]));
        assert_eq!(find(&store, soon()).unwrap(), way(1).doors);
        // Its next root is told at once.
        let mut next = clerk(&store);
        next.attend(wishes(None, 7, &[0]), began);
        assert_eq!(until_back(&mut next), [News::GivenUp]);
    }

    #[test]
    fn an_appeal_that_is_no_longer_needed_is_not_made() {
        let store = Memory::default();
        let mut clerk = clerk(&store);
        let began = Instant::now();
        let late = began + Duration::from_secs(5);
        clerk.attend(wishes(None, 0, &[0, 1]), began);
        until_back(&mut clerk);
        clerk.attend(wishes(Some(appeal(&[0], &[1], false)), 0, &[0]), began);
        // It was found dead meanwhile, and another fell silent much later.
        clerk.attend(wishes(None, 0, &[0]), late);
        clerk.attend(wishes(Some(appeal(&[0], &[2], false)), 0, &[0]), late);
        assert!(!clerk.is_out && store.load(soon()).unwrap().register.is_dispensable());
    }

    #[test]
    fn a_store_that_is_silent_grants_nothing_and_is_told_later() {
        let store = Memory::default();
        let mut clerk = clerk(&store);
        store.fall_silent(true);
        let now = Instant::now();
        clerk.attend(wishes(None, 0, &[0]), now);
        assert_eq!(until_back(&mut clerk), []);
        clerk.attend(wishes(None, 0, &[0]), now);
        assert!(!clerk.is_out && clerk.wakes_at() > Some(now));
        let ruling = super::super::rule(&store, &appeal(&[0], &[1], false), &way(0), Instant::now());
        assert!(matches!(ruling, Ruling::Silent(_)));
        store.fall_silent(false);
        clerk.attend(wishes(None, 0, &[0]), now + Duration::from_secs(60));
        until_back(&mut clerk);
        assert_eq!(find(&store, soon()).unwrap(), way(0).doors);
    }

    #[test]
    fn the_last_one_removes_the_register_unless_somebody_was_given_up() {
        for expels in [false, true] {
            let store = Memory::default();
            let mut clerk = clerk(&store);
            super::super::publish(&store, &[member(0)], &way(0), soon()).unwrap();
            if expels {
                super::super::rule(&store, &appeal(&[0], &[1], false), &way(0), soon());
            }
            clerk.retire();
            let Held { revision, .. } = store.load(soon()).unwrap();
            assert_eq!(revision == Revision::NONE, !expels);
        }
    }
}
