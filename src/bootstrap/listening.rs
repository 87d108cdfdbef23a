//! The control thread: sleeps until the root says something, until there is room for what waits to be sent, or until this
//! rank leaves.
#![forbid(unsafe_code)]

use super::member::Shared;
use super::sleep_until;
use super::wire::{FromRoot, Inbox, Outbox, ToRoot};
use nix::poll::{PollFd, PollFlags};
use std::io::Read;
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// How long a goodbye may take to be heard.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(2);

/// Runs until the connection ends. `inbox` may hold words that came with the start; `woken` is readable when there is
/// something new to send, or when the rank leaves.
pub(super) fn listen(shared: &Shared, mut inbox: Inbox, woken: &UnixStream) {
    let Some(link) = &shared.link else { return };
    let mut leave_by: Option<Instant> = None;
    let mut said_goodbye = false;
    loop {
        loop {
            match inbox.next::<FromRoot>() {
                Ok(Some(message)) if leave_by.is_none() => shared.hear(message),
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(error) => return shared.root_ended(&format!("sent what makes no sense ({error})")),
            }
        }
        if leave_by.is_none() && shared.is_leaving() {
            leave_by = Some(Instant::now() + LEAVE_TIMEOUT);
            link.send(&ToRoot::Bye);
        }
        let has_more = {
            let mut outbox = super::lock(&link.outbox);
            if outbox.flush(&link.stream).is_err() {
                *outbox = Outbox::default();
            }
            !outbox.is_empty()
        };
        if leave_by.is_some() && !has_more && !said_goodbye {
            // Our half of the connection ends after the goodbye; the root closes the other half when it has read it.
            let _ = link.stream.shutdown(Shutdown::Write);
            said_goodbye = true;
        }
        if leave_by.is_some_and(|deadline| deadline <= Instant::now()) {
            return;
        }
        let interest = if has_more { PollFlags::POLLIN | PollFlags::POLLOUT } else { PollFlags::POLLIN };
        let mut fds = [PollFd::new(link.stream.as_fd(), interest), PollFd::new(woken.as_fd(), PollFlags::POLLIN)];
        sleep_until(&mut fds, leave_by);
        let mut scrap = [0; 64];
        while matches!((&*woken).read(&mut scrap), Ok(read_bytes) if read_bytes > 0) {}
        let ended = match inbox.fill(&link.stream) {
            Ok(true) => continue,
            Ok(false) => "closed its control connection without a goodbye".to_string(),
            Err(error) => format!("lost its control connection ({error})"),
        };
        if leave_by.is_none() && !shared.is_leaving() {
            // What came before the end still counts.
            while let Ok(Some(message)) = inbox.next::<FromRoot>() {
                shared.hear(message);
            }
            shared.root_ended(&ended);
        }
        return;
    }
}
