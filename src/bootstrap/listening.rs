//! The control thread: sleeps until the root says something, until there is room for what waits to be sent, until it is time
//! for a sign of life, or until this rank leaves. When the root is gone it finds the next.
#![forbid(unsafe_code)]

use super::knowledge::Event;
use super::member::{Link, Shared};
use super::messages::{FromRoot, Gone, ToRoot};
use super::seek::{Creed, seek};
use super::sleep_until;
use super::standby::{Standby, silence};
use super::vigil::Vigil;
use super::wire::Inbox;
use crate::error::Error;
use crate::types::Rank;
use nix::poll::{PollFd, PollFlags};
use std::io::Read;
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a goodbye may take to be heard.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(2);
/// The one that is watched: the root, which is no rank.
const ROOT: Rank = 0;

/// A rank's ear.
pub(super) struct Ear {
    pub shared: Arc<Shared>,
    pub stream: Arc<TcpStream>,
    /// May hold words that came with the start.
    pub inbox: Inbox,
    /// Readable when there is something new to send, or when the rank leaves.
    pub woken: UnixStream,
    pub standby: Standby,
    pub creed: Creed,
    /// Set when the rank leaves.
    pub leave_by: Option<Instant>,
}

#[derive(PartialEq, Eq)]
enum Goodbye {
    Unsaid,
    OnItsWay,
    Said,
}

/// Why a root is not listened to any more.
enum End {
    /// This rank has left.
    Left,
    /// The others have given this rank up.
    Expelled,
    /// It fell silent, or was given up by others.
    Silent(Gone),
    /// The connection to it has ended, and so, most likely, has its process.
    Closed(String),
}

impl Ear {
    /// Runs until this rank leaves, or has no root any more.
    pub(super) fn run(mut self) {
        let shared = self.shared.clone();
        let Some(link) = shared.link() else { return };
        loop {
            let mut what = String::new();
            match self.listen(link) {
                End::Left => return,
                End::Expelled => {}
                End::Silent(how) => shared.lose_root(Some(&how)),
                End::Closed(how) => {
                    shared.lose_root(None);
                    what = how;
                }
            }
            tracing::debug!(rank = shared.rank, what, "the root is gone");
            let leave_by = self.leave_by;
            let is_enough = || match leave_by {
                Some(deadline) => Instant::now() >= deadline,
                None => false,
            };
            match seek(&shared, &self.creed, &mut self.standby, &what, &is_enough) {
                Ok(line) => {
                    tracing::debug!(rank = shared.rank, "follows the next root");
                    (self.stream, self.inbox) = line;
                }
                Err(error) => {
                    if let Error::PeerLost { .. } = &error {
                        tracing::warn!(rank = shared.rank, %error, "this rank is of the job no more");
                    }
                    return shared.end(error);
                }
            }
        }
    }

    /// Listens to one root to its end.
    fn listen(&mut self, link: &Link) -> End {
        let shared = self.shared.clone();
        let mut vigil = Vigil::new(self.creed.rhythm, Instant::now());
        vigil.hear(ROOT);
        let mut goodbye = Goodbye::Unsaid;
        let mut alive_at = vigil.next_look();
        let mut told = Vec::new();
        loop {
            while let Some(message) = self.next_word() {
                match message {
                    Ok(message) => shared.hear(message),
                    Err(error) => return End::Closed(format!("sent what makes no sense ({error})")),
                }
            }
            if let Some(end) = self.judgement() {
                return end;
            }
            if self.leave_by.is_none() && shared.is_leaving() {
                self.leave_by = Some(Instant::now() + LEAVE_TIMEOUT);
            }
            if self.leave_by.is_some() && goodbye == Goodbye::Unsaid {
                link.send(&ToRoot::Bye);
                goodbye = Goodbye::OnItsWay;
            }
            let has_more = link.flush();
            if goodbye == Goodbye::OnItsWay && !has_more {
                // Our half of the connection ends after the goodbye; the root closes the other half when it has read it.
                let _ = self.stream.shutdown(Shutdown::Write);
                goodbye = Goodbye::Said;
            }
            if self.leave_by.is_some_and(|deadline| deadline <= Instant::now()) {
                return End::Left;
            }
            self.sleep(has_more, self.leave_by.into_iter().chain(alive_at).min());
            let now = Instant::now();
            vigil.look(now);
            if alive_at.is_some_and(|at| at <= now) {
                let standing = shared.standing();
                if standing != told {
                    link.send(&ToRoot::Standing(standing.clone()));
                    told = standing;
                } else {
                    link.send(&ToRoot::Alive);
                }
                alive_at = vigil.next_look();
            }
            self.standby.serve(&shared, self.stream.peer_addr().ok());
            let heard_bytes = self.inbox.received_bytes();
            let ended = match self.inbox.fill(&self.stream) {
                Ok(true) => None,
                Ok(false) => Some("closed its control connection without a goodbye".to_string()),
                Err(error) => Some(format!("lost its control connection ({error})")),
            };
            if self.inbox.received_bytes() > heard_bytes {
                vigil.hear(ROOT);
            }
            if let Some(what) = ended {
                if goodbye == Goodbye::Said {
                    return End::Left;
                }
                // What came before the end still counts.
                while let Some(Ok(message)) = self.next_word() {
                    shared.hear(message);
                }
                return self.judgement().unwrap_or(End::Closed(what));
            }
            if let [(_, silent_for)] = vigil.silent()[..] {
                let is_still = shared.knows(|knowledge| knowledge.root_is_still());
                // Should it wake up, it finds this, and knows that it was given up.
                link.send(&ToRoot::Deposed { is_certain: is_still });
                return End::Silent(silence(ROOT, is_still, silent_for));
            }
        }
    }

    fn next_word(&mut self) -> Option<crate::error::Result<FromRoot>> {
        self.inbox.next::<FromRoot>().transpose()
    }

    /// What the root's words mean for this rank's place in the job.
    fn judgement(&self) -> Option<End> {
        let shared = &self.shared;
        let (is_expelled, is_deposed, is_beside) = shared.knows(|knowledge| {
            (knowledge.expelled().is_some(), knowledge.root_is_deposed(), knowledge.is_beside_root())
        });
        let what = || "was silent for so long that the others gave it up".to_string();
        match (is_expelled, is_deposed) {
            (true, _) => Some(End::Expelled),
            (_, true) if is_beside => {
                shared.announce(Event::Gone(shared.rank, Gone::Silent(what())));
                Some(End::Expelled)
            }
            (_, true) => Some(End::Silent(Gone::Silent(what()))),
            _ => None,
        }
    }

    fn sleep(&self, has_more: bool, wake_at: Option<Instant>) {
        let interest = if has_more { PollFlags::POLLIN | PollFlags::POLLOUT } else { PollFlags::POLLIN };
        let mut fds =
            vec![PollFd::new(self.stream.as_fd(), interest), PollFd::new(self.woken.as_fd(), PollFlags::POLLIN)];
        fds.extend(self.standby.fds().map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        sleep_until(&mut fds, wake_at.into_iter().chain(self.standby.wakes_at()).min());
        let mut scrap = [0; 64];
        while matches!((&self.woken).read(&mut scrap), Ok(read_bytes) if read_bytes > 0) {}
    }
}
