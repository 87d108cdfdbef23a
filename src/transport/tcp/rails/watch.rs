//! Several sockets to sleep on as one descriptor, and a bell for whoever changes something while the owner sleeps.
#![forbid(unsafe_code)]

use crate::error::{Error, Result};
use crate::transport::Interest;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::os::fd::{AsFd, AsRawFd};

/// What to wait for at one socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum For {
    Nothing,
    Bytes,
    Room,
}

pub(super) struct Watch {
    epoll: Epoll,
    bell: EventFd,
    is_rung: bool,
    /// By number of the socket.
    armed: Vec<For>,
}

impl Watch {
    pub(super) fn new(sockets: usize) -> Result<Watch> {
        let failed = |errno| Error::system("making a set of sockets to sleep on", errno);
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(failed)?;
        let bell = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK).map_err(failed)?;
        epoll.add(&bell, EpollEvent::new(EpollFlags::EPOLLIN, 0)).map_err(failed)?;
        Ok(Watch { epoll, bell, is_rung: false, armed: vec![For::Nothing; sockets] })
    }

    /// From now on wakes for this. A socket that is waited for nothing at does not wake even by its end.
    pub(super) fn arm(&mut self, number: usize, socket: impl AsFd, what: For) -> Result<()> {
        let before = std::mem::replace(&mut self.armed[number], what);
        let event = |flags| EpollEvent::new(flags, 0);
        let flags = match what {
            For::Nothing => EpollFlags::empty(),
            For::Bytes => EpollFlags::EPOLLIN,
            For::Room => EpollFlags::EPOLLOUT,
        };
        match (before, what) {
            (before, after) if before == after => Ok(()),
            (For::Nothing, _) => self.epoll.add(socket, event(flags)),
            (_, For::Nothing) => self.epoll.delete(socket),
            _ => self.epoll.modify(socket, &mut event(flags)),
        }
        .map_err(|errno| Error::system("changing what to sleep on", errno))
    }

    /// Wakes the owner, who then answers.
    pub(super) fn ring(&mut self) {
        // Full only where it was rung 2^64 times.
        let _ = self.bell.write(1);
        self.is_rung = true;
    }

    pub(super) fn answer(&mut self) {
        if std::mem::take(&mut self.is_rung) {
            let _ = self.bell.read();
        }
    }

    #[cfg(test)]
    pub(super) fn fd(&self) -> std::os::fd::OwnedFd {
        self.epoll.0.try_clone().unwrap()
    }

    pub(super) fn interest(&self) -> Interest {
        Interest { fd: self.epoll.0.as_fd().as_raw_fd(), readable: true, writable: false }
    }
}
