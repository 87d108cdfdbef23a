//! Sleeping until a neighbour, a socket or another thread has something, and waking a neighbour that sleeps.
//!
//! A rank that waits polls memory first; when that takes too long it sleeps in `poll(2)`. Sockets can be polled, shared
//! memory cannot, so each communicator of a rank has a *doorbell*: a datagram socket of its own to which whoever changed
//! shared memory sends one byte. Sending costs a system call, so nobody rings at a rank that is awake, which its `asleep`
//! word says:
//!
//! ```text
//!   sleeper                            waker
//!   asleep = 1                         publish (a ring position, a signal, ...)
//!   fence                              fence
//!   look at everything again           asleep == 1? then swap it to 0, and if it was 1:
//!   nothing? poll(doorbell, sockets)       send one byte to the doorbell
//!   asleep = 0, drain the doorbell
//! ```
//!
//! Of the two fences one comes first, so either the sleeper sees what was published, or the waker sees that it is asleep:
//! no wake-up is lost (`interleavings` tries them all, and finds the loss when a fence is missing). A byte too many only
//! costs one more look.
#![allow(unsafe_code)]

use super::word::Word;
use super::{Id, random_id, socket_address};
use crate::error::{Error, Result};
use crate::transport::Interest;
use nix::errno::Errno;
use std::any::Any;
use std::fmt;
use std::io::ErrorKind;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::time::Duration;

/// Whoever keeps the memory mapped in which a word lies.
pub(super) type Keep = Arc<dyn Any + Send + Sync>;

/// What the owner sleeps on. One sleeper at a time, which `&mut` sees to.
pub struct Doorbell {
    socket: Arc<UnixDatagram>,
    address: SocketAddr,
    asleep: Word,
    /// Kept between naps only to spare their allocation.
    interests: Vec<libc::pollfd>,
    _keep: Keep,
}

impl fmt::Debug for Doorbell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Doorbell").field("socket", &self.socket.as_raw_fd()).finish_non_exhaustive()
    }
}

impl Doorbell {
    /// Makes a doorbell and its random name. `asleep` is a word that those who ring can reach.
    pub(super) fn new(asleep: Word, keep: Keep) -> Result<(Doorbell, Id)> {
        let name = random_id()?;
        let address = socket_address("bell", &name);
        let context = |error| Error::system("making a doorbell (a Unix datagram socket)", error);
        let socket = UnixDatagram::bind_addr(&address).map_err(context)?;
        socket.set_nonblocking(true).map_err(context)?;
        Ok((Doorbell { socket: Arc::new(socket), address, asleep, interests: Vec::new(), _keep: keep }, name))
    }

    /// Announces that the owner is about to sleep. Whoever changes something from now on rings; so look at *everything*
    /// once more, and then either [`Nap::sleep`] or, because there was something, drop the nap.
    pub fn lie_down(&mut self) -> Nap<'_> {
        // SeqCst store and fence: pair with the fence and the load in `Ringer::ring_if_asleep_after_fence`.
        self.asleep.store(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        Nap { bell: self, rung: false }
    }

    /// A handle with which any thread of this process can end the current or the next nap.
    pub fn waker(&self) -> Waker {
        Waker { socket: self.socket.clone(), address: self.address.clone() }
    }

    fn drain(&self) {
        // A peer has at most a few bytes under way; bounded all the same, because strangers can send here too.
        for _ in 0..64 {
            match self.socket.recv(&mut [0]) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }
}

/// Permission to sleep: the announcement has been made.
#[derive(Debug)]
pub struct Nap<'a> {
    bell: &'a mut Doorbell,
    /// The bell was seen to have rung.
    rung: bool,
}

impl Nap<'_> {
    /// Sleeps until somebody rings, one of `interests` is ready, a signal arrives, or `timeout` has passed (`None`:
    /// until woken). Which of them it was is for the caller to find out: look again.
    pub fn sleep(mut self, interests: &[Interest], timeout: Option<Duration>) -> Result<()> {
        let pollfd = |fd: RawFd, events| libc::pollfd { fd, events, revents: 0 };
        let bell = &mut *self.bell;
        bell.interests.clear();
        bell.interests.push(pollfd(bell.socket.as_raw_fd(), libc::POLLIN));
        bell.interests.extend(interests.iter().map(|interest| {
            let readable = if interest.readable { libc::POLLIN } else { 0 };
            let writable = if interest.writable { libc::POLLOUT } else { 0 };
            pollfd(interest.fd, readable | writable)
        }));
        let timeout = timeout.map(|timeout| libc::timespec {
            tv_sec: timeout.as_secs().try_into().unwrap_or(libc::time_t::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        });
        let timeout = timeout.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        // SAFETY: the pointer and the length are those of one live vector; the timeout is null or outlives the call; no
        // signal mask is given.
        let ready = unsafe {
            libc::ppoll(bell.interests.as_mut_ptr(), bell.interests.len() as libc::nfds_t, timeout, std::ptr::null())
        };
        if ready < 0 {
            return match Errno::last() {
                Errno::EINTR => Ok(()),
                errno => Err(Error::system("sleeping (poll)", errno)),
            };
        }
        self.rung = bell.interests[0].revents != 0;
        match bell.interests.iter().find(|one| one.revents & libc::POLLNVAL != 0) {
            // Ours to notice: it would be "ready" for ever, and the wait would spin.
            Some(closed) => Err(Error::system(format!("sleeping on descriptor {}", closed.fd), Errno::EBADF)),
            None => Ok(()),
        }
    }
}

impl Drop for Nap<'_> {
    fn drop(&mut self) {
        // Relaxed: awake again. A waker that still reads 1 sends a byte too many, which is harmless. Where the word is 0
        // already somebody has rung, or is about to.
        let called = self.bell.asleep.swap(0, Ordering::Relaxed) == 0;
        if self.rung || called {
            self.bell.drain();
        }
    }
}

/// Rings one doorbell unconditionally. For failures and new work from other threads, not for data.
#[derive(Debug, Clone)]
pub struct Waker {
    socket: Arc<UnixDatagram>,
    address: SocketAddr,
}

impl Waker {
    /// What rings at the neighbour whose doorbell has this name, through the socket of this one.
    pub(super) fn ringer(&self, name: &Id, asleep: Word, keep: Keep) -> Ringer {
        Ringer {
            waker: Waker { socket: self.socket.clone(), address: socket_address("bell", name) },
            asleep,
            _keep: keep,
        }
    }

    /// Ends the owner's current nap, or its next one. Never blocks.
    pub fn wake(&self) {
        // Refused: the owner is gone. Would block: either its queue is full of wake-ups, and that is as good, or this
        // socket has too many bytes under way to others, who sleep through theirs; a fresh socket tells the two apart.
        if let Err(error) = self.socket.send_to_addr(&[1], &self.address)
            && error.kind() == ErrorKind::WouldBlock
            && let Ok(fresh) = UnixDatagram::unbound()
            && fresh.set_nonblocking(true).is_ok()
        {
            let _ = fresh.send_to_addr(&[1], &self.address);
        }
    }
}

/// Rings one neighbour's doorbell if that neighbour sleeps.
#[derive(Clone)]
pub(super) struct Ringer {
    waker: Waker,
    asleep: Word,
    _keep: Keep,
}

impl Ringer {
    /// Call after publishing something that the neighbour may be waiting for.
    #[inline]
    pub(super) fn ring_if_asleep(&self) {
        // SeqCst: pairs with the fence in `Doorbell::lie_down`.
        fence(Ordering::SeqCst);
        self.ring_if_asleep_after_fence();
    }

    /// The same, for those who ring several neighbours and have made the one SeqCst fence, or published by a SeqCst swap,
    /// that this needs.
    #[inline]
    pub(super) fn ring_if_asleep_after_fence(&self) {
        // SeqCst: no earlier than the fence, or the SeqCst swap that stands for it. The swap here makes one waker of many ring.
        if self.asleep.load(Ordering::SeqCst) == 1 && self.asleep.swap(0, Ordering::Relaxed) == 1 {
            self.waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::shm::Arena;
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    use std::time::Instant;

    /// A bound for what takes microseconds unless it hangs.
    const LONG: Duration = Duration::from_secs(20);

    fn bell() -> (Doorbell, Id, Word, Keep) {
        let block = Arc::new(Arena::create(4096).unwrap().alloc_zeroed(64, 64).unwrap());
        let asleep = Word::at(block.span(), 0);
        let (bell, name) = Doorbell::new(asleep, block.clone()).unwrap();
        (bell, name, asleep, block)
    }

    #[test]
    fn a_sleeper_is_rung_and_a_waking_one_is_not() {
        let (mut bell, name, asleep, keep) = bell();
        let (other, ..) = self::bell();
        let ringer = other.waker().ringer(&name, asleep, keep);
        ringer.ring_if_asleep();
        assert_eq!(bell.socket.recv(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock, "nobody slept");
        let start = Instant::now();
        std::thread::scope(|scope| {
            let nap = bell.lie_down();
            scope.spawn(|| ringer.ring_if_asleep());
            nap.sleep(&[], Some(LONG)).unwrap();
        });
        assert!(start.elapsed() < LONG);
        assert_eq!(asleep.load(Ordering::SeqCst), 0);
        assert_eq!(bell.socket.recv(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock, "drained");
    }

    #[test]
    fn a_waker_ends_the_next_nap_too() {
        let (mut bell, ..) = bell();
        bell.waker().wake();
        let start = Instant::now();
        bell.lie_down().sleep(&[], None).unwrap();
        bell.lie_down().sleep(&[], Some(Duration::from_millis(5))).unwrap();
        assert!(start.elapsed() >= Duration::from_millis(5), "the second nap had nothing to wake it");
    }

    #[test]
    fn sockets_and_the_bell_are_slept_on_together() {
        let (mut bell, ..) = bell();
        let (mine, mut theirs) = UnixStream::pair().unwrap();
        let readable = Interest { fd: mine.as_raw_fd(), readable: true, writable: false };
        theirs.write_all(&[1]).unwrap();
        bell.lie_down().sleep(&[readable], None).unwrap();
        let writable = Interest { fd: theirs.as_raw_fd(), readable: false, writable: true };
        bell.lie_down().sleep(&[writable], None).unwrap();
        drop(theirs);
        bell.lie_down().sleep(&[readable], None).unwrap();
        let closed = Interest { fd: 1 << 20, ..readable };
        assert!(bell.lie_down().sleep(&[closed], None).is_err());
    }

    #[test]
    fn full_queues_and_dead_owners_do_not_block_the_waker() {
        let (bell, name, asleep, keep) = bell();
        let (other, ..) = self::bell();
        let ringer = other.waker().ringer(&name, asleep, keep);
        for _ in 0..2000 {
            bell.waker().wake();
            ringer.waker.wake();
        }
        drop(bell);
        ringer.waker.wake();
    }
}
