//! How the ranks of a host get one another's arenas: [`attach`](fn@attach).
//!
//! Ranks of the same process find each other's arena in a table. To the arena of another process one comes through its
//! [`Door`](super::Door).
#![allow(unsafe_code)]

use super::arena::{Arena, PeerArena};
use super::mapping::{self, Mapping};
use super::socket_name;
use crate::error::{Error, Result};
use nix::errno::Errno;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, getsockopt, recvmsg, sockopt};
use serde::{Deserialize, Serialize};
use std::io::{self, ErrorKind, IoSliceMut};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What a rank tells the others, so that those of its host can attach to its arena.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalCard {
    /// The arena's random name, and the word that opens the door.
    pub arena_id: [u8; 16],
    /// The owner's process.
    pub pid: u32,
    /// The owner's effective user.
    pub uid: u32,
    /// The door's random name.
    pub door: [u8; 16],
}

/// True when the card was made by this very process (not by the one it was forked from).
pub fn same_process(card: &LocalCard) -> bool {
    card.pid == std::process::id() && Arena::find(&card.arena_id).is_some()
}

/// Gets the arena that `card` speaks of, one's own included. Call once per peer and keep the answer for all
/// communicators.
pub fn attach(card: &LocalCard, deadline: Instant) -> Result<Arc<PeerArena>> {
    if same_process(card)
        && let Some(arena) = Arena::find(&card.arena_id)
    {
        return Ok(Arc::new(PeerArena::of_this_process(arena)));
    }
    let (file, told_len_bytes) = knock(card, deadline).map_err(|error| Error::Bootstrap {
        what: format!(
            "attaching to the shared memory of process {}: {error}; look at its log, or set ROUNDEL_TRANSPORT=tcp if the \
             two are not on one host or in different containers",
            card.pid
        ),
        missing: Vec::new(),
    })?;
    let len_bytes = mapping::checked_file_len_bytes(&file)?;
    if len_bytes as u64 != told_len_bytes {
        return Err(Error::bootstrap(format!(
            "process {} announced {told_len_bytes} bytes of shared memory and sent a file of {len_bytes}",
            card.pid
        )));
    }
    Ok(Arc::new(PeerArena::of_another_process(Mapping::new(&file, len_bytes)?)))
}

/// Fetches the descriptor and the length through the owner's door.
fn knock(card: &LocalCard, deadline: Instant) -> io::Result<(OwnedFd, u64)> {
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None)?;
    let address = socket2::SockAddr::unix(format!("\0{}", socket_name("door", &card.door)))?;
    // A full backlog holds `connect` for as long as a write may take.
    retry(|| {
        socket.set_write_timeout(Some(remaining(deadline)?))?;
        socket.connect(&address)
    })?;
    let stream = UnixStream::from(OwnedFd::from(socket));
    if getsockopt(&stream, sockopt::PeerCredentials)?.uid() != card.uid {
        return Err(io::Error::other("somebody of another user took its door's name"));
    }
    // Not `write`: where Rust does not own `main`, writing to a door that was just shut would kill the process (SIGPIPE).
    let said = nix::sys::socket::send(stream.as_raw_fd(), &card.arena_id, MsgFlags::MSG_NOSIGNAL)?;
    debug_assert_eq!(said, card.arena_id.len(), "a fresh stream takes 16 bytes at once");
    let mut length = [0; 8];
    let mut received = 0;
    let mut file = None;
    while received < length.len() {
        stream.set_read_timeout(Some(remaining(deadline)?))?;
        let mut control = nix::cmsg_space!([i32; 4]);
        let mut pieces = [IoSliceMut::new(&mut length[received..])];
        let answer =
            match recvmsg::<()>(stream.as_raw_fd(), &mut pieces, Some(&mut control), MsgFlags::MSG_CMSG_CLOEXEC) {
                Err(Errno::EINTR) => continue,
                answer => answer?,
            };
        for message in answer.cmsgs()? {
            if let ControlMessageOwned::ScmRights(files) = message {
                for raw in files {
                    // SAFETY: the kernel has just put this descriptor into our table; nobody else knows of it.
                    file = Some(unsafe { OwnedFd::from_raw_fd(raw) });
                }
            }
        }
        match answer.bytes {
            0 => return Err(io::Error::other("it closed its door without handing out its memory")),
            count => received += count,
        }
    }
    let file = file.ok_or_else(|| io::Error::other("it answered without handing out its memory"))?;
    Ok((file, u64::from_le_bytes(length)))
}

/// Repeats what a signal interrupted.
fn retry<T>(mut what: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match what() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            answer => return answer,
        }
    }
}

/// Time left, never zero (which sockets read as "for ever").
fn remaining(deadline: Instant) -> io::Result<Duration> {
    match deadline.saturating_duration_since(Instant::now()) {
        Duration::ZERO => Err(io::Error::new(ErrorKind::TimedOut, "it did not answer in time")),
        left => Ok(left.max(Duration::from_millis(1))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::shm::{Door, random_id, socket_address};
    use std::os::unix::net::UnixListener;

    /// A generous bound: nothing here takes longer than milliseconds unless it hangs.
    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    /// The card as another process would see it, so that the door is used even within one process.
    fn foreign(card: &LocalCard) -> LocalCard {
        LocalCard { pid: card.pid ^ 1, ..card.clone() }
    }

    fn read(arena: &PeerArena, offset: usize) -> u8 {
        let mut byte = [0];
        arena.span().from(offset).read(&mut byte);
        byte[0]
    }

    #[test]
    fn through_the_door_both_sides_see_the_same_memory() {
        let arena = Arena::create(1 << 30).unwrap();
        let (_door, card) = Door::open(&arena).unwrap();
        let block = arena.alloc(4096, 64).unwrap();
        let other = attach(&foreign(&card), soon()).unwrap();
        assert!(!other.is_same_process());
        assert_ne!(other.span().addr(), arena.span().addr());
        block.span().write(&[42]);
        assert_eq!(read(&other, block.offset()), 42);
        let same = attach(&card, soon()).unwrap();
        assert!(same.is_same_process() && same_process(&card));
        assert_eq!(same.span(), arena.span());
    }

    #[test]
    fn the_same_process_view_outlives_the_owner() {
        let arena = Arena::create(1 << 20).unwrap();
        let (door, card) = Door::open(&arena).unwrap();
        let view = attach(&card, soon()).unwrap();
        arena.span().write(&[9]);
        drop((door, arena));
        assert_eq!(read(&view, 0), 9);
        drop(view);
        assert!(!same_process(&card));
    }

    #[test]
    fn a_wrong_token_gets_nothing() {
        let arena = Arena::create(1 << 20).unwrap();
        let (_door, card) = Door::open(&arena).unwrap();
        let wrong = LocalCard { arena_id: [7; 16], ..foreign(&card) };
        let error = attach(&wrong, soon()).unwrap_err().to_string();
        assert!(error.contains("without handing out") || error.contains("reset"), "{error}");
        assert!(attach(&foreign(&card), soon()).is_ok());
    }

    #[test]
    fn another_user_gets_nothing_even_with_the_right_token() {
        if !nix::unistd::geteuid().is_root() {
            return eprintln!("skipped: only root can try to be somebody else");
        }
        let arena = Arena::create(1 << 20).unwrap();
        let (_door, card) = Door::open(&arena).unwrap();
        let card = foreign(&card);
        let stranger = || {
            // SAFETY: no memory is involved. The bare system call changes this thread alone, and the thread ends here.
            let answer = unsafe { libc::syscall(libc::SYS_setresuid, -1, 12345, -1) };
            assert_eq!(answer, 0);
            attach(&card, soon()).map(drop)
        };
        std::thread::scope(|scope| assert!(scope.spawn(stranger).join().unwrap().is_err()));
        attach(&card, soon()).unwrap();
    }

    #[test]
    fn a_closed_door_is_an_error_that_says_so_at_once() {
        let arena = Arena::create(1 << 20).unwrap();
        let (door, card) = Door::open(&arena).unwrap();
        drop(door);
        let error = attach(&foreign(&card), soon()).unwrap_err().to_string();
        assert!(error.contains("refused") && error.contains(&foreign(&card).pid.to_string()), "{error}");
    }

    #[test]
    fn a_door_of_another_user_is_not_trusted() {
        let arena = Arena::create(1 << 20).unwrap();
        let (_door, card) = Door::open(&arena).unwrap();
        let other_user = LocalCard { uid: card.uid ^ 1, ..foreign(&card) };
        assert!(attach(&other_user, soon()).unwrap_err().to_string().contains("another user"));
    }

    #[test]
    fn a_silent_door_is_given_up_at_the_deadline() {
        let card =
            LocalCard { arena_id: [1; 16], pid: 0, uid: nix::unistd::geteuid().as_raw(), door: random_id().unwrap() };
        let _listener = UnixListener::bind_addr(&socket_address("door", &card.door)).unwrap();
        let start = Instant::now();
        assert!(attach(&card, start + Duration::from_millis(50)).is_err());
        assert!(start.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn a_file_that_could_shrink_is_refused() {
        let flags = nix::sys::memfd::MFdFlags::MFD_CLOEXEC;
        let file = nix::sys::memfd::memfd_create("unsealed", flags).unwrap();
        assert!(mapping::checked_file_len_bytes(&file).unwrap_err().to_string().contains("not sealed"));
    }

    #[test]
    fn a_hundred_at_once_all_get_in() {
        let arena = Arena::create(1 << 20).unwrap();
        let (_door, card) = Door::open(&arena).unwrap();
        let card = foreign(&card);
        std::thread::scope(|scope| {
            let clients: Vec<_> = (0..100).map(|_| scope.spawn(|| attach(&card, soon()).map(drop))).collect();
            for client in clients {
                client.join().unwrap().unwrap();
            }
        });
    }
}
