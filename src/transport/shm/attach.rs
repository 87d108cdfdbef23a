//! How the ranks of a host get one another's arenas.
//!
//! Every rank opens a [`Door`], a Unix socket with a random name that only the ranks of the job learn (it travels in the
//! rank's [`LocalCard`]). Who connects must run as the same user and say the arena's id, which is random too; it is
//! handed the memory file's descriptor. Ranks of the same process need no door: they find each other's arena in a table.
//! When everybody has attached the door is dropped, and with it the name.
//!
//! ```text
//!   attach                                   door thread of the owner
//!     connect ───────────────────────────────▶ same uid? else closed at once
//!     16 bytes: arena id ────────────────────▶ right? else closed
//!     ◀──────────────── 8 bytes: length, and the descriptor
//!     sealed? same length? map, close
//! ```
#![allow(unsafe_code)]

use super::arena::{Arena, PeerArena};
use super::mapping::{self, Mapping};
use super::{Id, random_id, socket_address, socket_name};
use crate::error::{Error, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, getsockopt, recvmsg, sendmsg, sockopt};
use serde::{Deserialize, Serialize};
use std::io::{self, ErrorKind, IoSlice, IoSliceMut, Read};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a client may take to say its token; less when many stand in line.
const CLIENT_PATIENCE: Duration = Duration::from_secs(2);
const CLIENT_PATIENCE_WHEN_FULL: Duration = Duration::from_millis(100);

/// Clients that are listened to at the same time; others wait in the socket's backlog.
const MAX_CLIENTS: usize = 64;

/// How long to leave the system alone when it had no descriptor for us.
const RETRY_AFTER: Duration = Duration::from_millis(5);

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

/// Hands the arena to those who know its id, on a thread of its own, until it is dropped.
#[derive(Debug)]
pub struct Door {
    /// Closing this end ends the thread.
    stop: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

impl Door {
    /// Opens the door to `arena`. The card is for all ranks of the job, and only for them.
    pub fn open(arena: &Arc<Arena>) -> Result<(Door, LocalCard)> {
        let door = random_id()?;
        let context = |error: io::Error| Error::system("opening the door to this rank's shared memory", error);
        let listener = UnixListener::bind_addr(&socket_address("door", &door)).map_err(context)?;
        listener.set_nonblocking(true).map_err(context)?;
        let (stop, stopped) = UnixStream::pair().map_err(context)?;
        let uid = nix::unistd::geteuid().as_raw();
        let keeper = Keeper { arena: arena.clone(), uid, listener, stopped, clients: Vec::new() };
        let thread = std::thread::Builder::new()
            .name("roundel-door".into())
            .spawn(move || keeper.serve())
            .map_err(|error| Error::system("starting the thread that hands out shared memory", error))?;
        let card = LocalCard { arena_id: *arena.id(), pid: std::process::id(), uid, door };
        Ok((Door { stop: Some(stop), thread: Some(thread) }, card))
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that hands out shared memory panicked");
        }
    }
}

/// Who stands behind the door.
struct Keeper {
    arena: Arc<Arena>,
    uid: u32,
    listener: UnixListener,
    stopped: UnixStream,
    clients: Vec<Client>,
}

struct Client {
    stream: UnixStream,
    since: Instant,
    token: Id,
    token_bytes: usize,
}

/// What became of a client after it was looked at.
enum Progress {
    /// It has what it came for, or was sent away.
    Done,
    /// It has not said all of its token.
    Silent,
    /// It said the token, but the system has no descriptor for it right now.
    Later,
}

impl Keeper {
    fn serve(mut self) {
        let mut retry = false;
        loop {
            let now = Instant::now();
            let patience = if self.clients.len() < MAX_CLIENTS { CLIENT_PATIENCE } else { CLIENT_PATIENCE_WHEN_FULL };
            self.clients.retain(|client| now < client.since + patience);
            let soonest = self.clients.iter().map(|client| client.since + patience).min();
            let timeout = if retry { Some(RETRY_AFTER) } else { soonest.map(|at| at.saturating_duration_since(now)) };
            if self.wait(timeout, retry) {
                return;
            }
            retry = self.accept();
            let Keeper { arena, clients, .. } = &mut self;
            clients.retain_mut(|client| match client.advance(arena) {
                Progress::Done => false,
                Progress::Silent => true,
                Progress::Later => {
                    retry = true;
                    true
                }
            });
        }
    }

    /// Sleeps until there is something to do; true when the door was dropped. With `pause`, only the passing of time
    /// and the end of the door count, because everything else would be there again at once.
    fn wait(&self, timeout: Option<Duration>, pause: bool) -> bool {
        let mut interests = vec![PollFd::new(self.stopped.as_fd(), PollFlags::POLLIN)];
        if !pause {
            if self.clients.len() < MAX_CLIENTS {
                interests.push(PollFd::new(self.listener.as_fd(), PollFlags::POLLIN));
            }
            interests.extend(self.clients.iter().map(|client| PollFd::new(client.stream.as_fd(), PollFlags::POLLIN)));
        }
        // Rounded up, so as not to wake just before a deadline; the deadlines are seconds, so it always fits.
        let timeout = timeout.map_or(PollTimeout::NONE, |timeout| {
            PollTimeout::try_from(timeout.as_millis() as u32 + 1).unwrap_or(PollTimeout::MAX)
        });
        match poll(&mut interests, timeout) {
            Ok(_) | Err(Errno::EINTR) => interests[0].any().unwrap_or(true),
            Err(errno) => {
                tracing::error!("the door to this rank's shared memory closes early: poll: {errno}");
                true
            }
        }
    }

    /// Lets in who is waiting; true when the system had no descriptor for one of them.
    fn accept(&mut self) -> bool {
        while self.clients.len() < MAX_CLIENTS {
            match self.listener.accept() {
                Ok((stream, _)) => {
                    let same_user =
                        getsockopt(&stream, sockopt::PeerCredentials).is_ok_and(|who| who.uid() == self.uid);
                    if same_user && stream.set_nonblocking(true).is_ok() {
                        self.clients.push(Client { stream, since: Instant::now(), token: [0; 16], token_bytes: 0 });
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return true,
            }
        }
        false
    }
}

impl Client {
    fn advance(&mut self, arena: &Arena) -> Progress {
        while self.token_bytes < self.token.len() {
            match self.stream.read(&mut self.token[self.token_bytes..]) {
                Ok(0) => return Progress::Done,
                Ok(count) => self.token_bytes += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Progress::Silent,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Progress::Done,
            }
        }
        if self.token != *arena.id() {
            return Progress::Done;
        }
        let len_bytes = (arena.span().len() as u64).to_le_bytes();
        let files = [arena.file().as_raw_fd()];
        let message = [ControlMessage::ScmRights(&files)];
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        match sendmsg::<()>(self.stream.as_raw_fd(), &[IoSlice::new(&len_bytes)], &message, flags, None) {
            // ETOOMANYREFS: as many descriptors are under way as this user may have open; they arrive one by one.
            Err(Errno::ETOOMANYREFS | Errno::EAGAIN | Errno::EINTR | Errno::ENOMEM | Errno::ENOBUFS) => Progress::Later,
            _ => Progress::Done,
        }
    }
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
    use std::io::Write;

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
    fn silent_clients_do_not_keep_others_out() {
        let arena = Arena::create(1 << 20).unwrap();
        let (_door, card) = Door::open(&arena).unwrap();
        let address = socket_address("door", &card.door);
        let mut silent: Vec<UnixStream> =
            (0..MAX_CLIENTS * 2).map(|_| UnixStream::connect_addr(&address).unwrap()).collect();
        for stream in &mut silent[..8] {
            stream.write_all(&card.arena_id[..5]).unwrap();
        }
        for _ in 0..3 {
            attach(&foreign(&card), soon()).unwrap();
        }
        // And they are sent away, all of them, without having got a byte.
        for stream in &mut silent {
            stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            match stream.read(&mut [0; 8]) {
                Ok(count) => assert_eq!(count, 0),
                Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
            }
        }
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
