//! The owner's side of handing an arena to the other processes of the host: a [`Door`].
//!
//! A Unix socket with a random name that only the ranks of the job learn (it travels in the rank's [`LocalCard`]). Who
//! connects must run as the same user and say the arena's id, which is random too; it is handed the memory file's
//! descriptor. All clients are served by one thread that never waits for one of them: whoever says nothing, or something
//! else, is sent away.
//!
//! ```text
//!   attach                                   door thread of the owner
//!     connect ───────────────────────────────▶ same uid? else closed at once
//!     16 bytes: arena id ────────────────────▶ right? else closed
//!     ◀──────────────── 8 bytes: length, and the descriptor
//!     sealed? same length? map, close
//! ```
//!
//! When everybody has attached the door is dropped, and with it the name.
#![forbid(unsafe_code)]

use super::arena::Arena;
use super::attach::LocalCard;
use super::{Id, random_id, socket_address};
use crate::error::{Error, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessage, MsgFlags, getsockopt, sendmsg, sockopt};
use std::io::{self, ErrorKind, IoSlice, Read};
use std::os::fd::{AsFd, AsRawFd};
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::shm::attach;
    use std::io::Write;

    /// What another user can reach of an arena: not its file by any name, not the door's answer.
    #[test]
    fn another_user_gets_nothing() {
        let arena = Arena::create(1 << 20).unwrap();
        let (_door, card) = Door::open(&arena).unwrap();
        // The memory has no name in any file system: nothing to open.
        let fd = arena.file().as_raw_fd();
        let target = std::fs::read_link(format!("/proc/self/fd/{fd}")).unwrap();
        assert!(target.to_str().unwrap().starts_with("/memfd:roundel-arena") && !target.exists(), "{target:?}");
        for folder in ["/dev/shm", "/tmp"] {
            let named = std::fs::read_dir(folder).into_iter().flatten().flatten();
            let mut named = named.filter(|entry| entry.file_name().to_string_lossy().contains("roundel-arena"));
            assert!(named.next().is_none(), "a name in {folder}");
        }
        // It is not handed on to programs that this process starts.
        let flags = nix::fcntl::fcntl(arena.file(), nix::fcntl::FcntlArg::F_GETFD).unwrap();
        assert!(nix::fcntl::FdFlag::from_bits_truncate(flags).contains(nix::fcntl::FdFlag::FD_CLOEXEC));

        if !nix::unistd::geteuid().is_root() {
            println!("skipped: only root can become another user to try the door");
            return;
        }
        // Even one who knows both random names. Python, because a fork of a test with threads may do next to nothing.
        let script = format!(
            "import os,socket\nos.setgid(65534)\nos.setuid(65534)\ns=socket.socket(socket.AF_UNIX)\ns.settimeout(20)\n\
             s.connect('\\0{}')\ntry:\n  s.sendall(bytes({:?}))\n  data,fds,_,_=socket.recv_fds(s,8,4)\n  print(len(data),len(fds))\n\
             except (ConnectionResetError,BrokenPipeError):\n  print('0 0')\n\
             try:\n  open('/proc/{}/fd/{}','rb')\n  print('opened')\nexcept PermissionError:\n  print('refused')\n",
            crate::transport::shm::socket_name("door", &card.door),
            card.arena_id,
            std::process::id(),
            fd,
        );
        match std::process::Command::new("python3").args(["-c", &script]).output() {
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stdout).into_owned();
                assert_eq!(said, "0 0\nrefused\n", "{}", String::from_utf8_lossy(&output.stderr));
            }
            Err(error) => println!("skipped: no python3 to play another user ({error})"),
        }
        // The door still works for its own.
        attach(&LocalCard { pid: card.pid ^ 1, ..card }, Instant::now() + Duration::from_secs(20)).unwrap();
    }

    #[test]
    fn silent_clients_do_not_keep_others_out() {
        let arena = Arena::create(1 << 20).unwrap();
        let (_door, card) = Door::open(&arena).unwrap();
        // As another process sees it, so that the door is used.
        let foreign = LocalCard { pid: card.pid ^ 1, ..card.clone() };
        let address = socket_address("door", &card.door);
        let mut silent: Vec<UnixStream> =
            (0..MAX_CLIENTS * 2).map(|_| UnixStream::connect_addr(&address).unwrap()).collect();
        for stream in &mut silent[..8] {
            stream.write_all(&card.arena_id[..5]).unwrap();
        }
        for _ in 0..3 {
            attach(&foreign, Instant::now() + Duration::from_secs(20)).unwrap();
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
}
