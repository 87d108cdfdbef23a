//! Hydra on several hosts names none of them, but it keeps a board where ranks leave notes for each other: PMI-1 over the
//! descriptor `PMI_FD`, one line a message. Rank 0 leaves its address there.
//!
//! ```text
//!   rank                                          Hydra
//!   cmd=init pmi_version=1 pmi_subversion=1  -->
//!                                            <--  cmd=response_to_init rc=0 ...
//!   cmd=get_my_kvsname                       -->
//!                                            <--  cmd=my_kvsname kvsname=K       the job's name, the same on all ranks
//!   cmd=put kvsname=K key=.. value=ADDRESS   -->                                 rank 0 only
//!                                            <--  cmd=put_result rc=0
//!   cmd=barrier_in                           -->
//!                                            <--  cmd=barrier_out                when all ranks are in it
//!   cmd=get kvsname=K key=..                 -->
//!                                            <--  cmd=get_result rc=0 value=ADDRESS
//!   cmd=finalize                             -->
//!                                            <--  cmd=finalize_ack
//! ```
//!
//! It can be done once a process, so what was found is kept. A program that calls MPI as well needs the board for itself: it
//! sets `ROUNDEL_MASTER_ADDR`, and nothing of this happens.
#![forbid(unsafe_code)]

use crate::error::{Error, Result};
use crate::transport::tcp::interface;
use crate::types::Rank;
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv, send};
use std::os::fd::RawFd;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Rank 0's note.
const KEY: &str = "roundel-root";
/// Between two looks for an answer.
const PAUSE: Duration = Duration::from_millis(1);
/// The longest line that PMI-1 has, and more.
const MAX_LINE_BYTES: usize = 4096;

/// Where the ranks meet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Board {
    /// An address of rank 0's host.
    pub host: String,
    /// The job's name.
    pub job: String,
}

/// Meets the other ranks at the board behind `fd`. Blocks until all have come, or for `patience`.
pub(super) fn meet(fd: RawFd, rank: Rank, interface: Option<&str>, patience: Duration) -> Result<Board> {
    static FOUND: Mutex<Option<Board>> = Mutex::new(None);
    // After a panic in between nothing was found, and the next one tries again.
    let mut found = FOUND.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if found.is_none() {
        let address = if rank == 0 { Some(interface::resolve(interface)?.to_string()) } else { None };
        let mut line = Line { fd, deadline: Instant::now() + patience, early: Vec::new() };
        let board = line.exchange(address.as_deref());
        let what = |error| Error::bootstrap(format!("rank {rank} asks Hydra where rank 0 is: {error}"));
        *found = Some(board.map_err(what)?);
    }
    Ok(found.clone().expect("found above"))
}

/// A conversation with Hydra.
struct Line {
    fd: RawFd,
    deadline: Instant,
    /// Received, but not yet read.
    early: Vec<u8>,
}

impl Line {
    fn exchange(&mut self, address: Option<&str>) -> std::result::Result<Board, String> {
        self.ask("cmd=init pmi_version=1 pmi_subversion=1", "response_to_init")?;
        let job = self.learn("cmd=get_my_kvsname", "my_kvsname", "kvsname")?;
        if let Some(address) = address {
            self.ask(&format!("cmd=put kvsname={job} key={KEY} value={address}"), "put_result")?;
        }
        self.ask("cmd=barrier_in", "barrier_out")?;
        let host = self.learn(&format!("cmd=get kvsname={job} key={KEY}"), "get_result", "value")?;
        self.ask("cmd=finalize", "finalize_ack")?;
        Ok(Board { host, job })
    }

    /// What the answer to a command says of `name`.
    fn learn(&mut self, command: &str, wanted: &str, name: &str) -> std::result::Result<String, String> {
        let answer = self.ask(command, wanted)?;
        value(&answer, name).map(str::to_string).ok_or_else(|| format!("it answers {answer:?}, without {name}"))
    }

    /// Sends a command; the answer, which must be `wanted`.
    fn ask(&mut self, command: &str, wanted: &str) -> std::result::Result<String, String> {
        let mut rest = format!("{command}\n").into_bytes();
        while !rest.is_empty() {
            match send(self.fd, &rest, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL) {
                Ok(sent) => drop(rest.drain(..sent)),
                Err(Errno::EAGAIN | Errno::EINTR) => self.pause(command)?,
                Err(errno) => return Err(format!("PMI_FD={}: {}", self.fd, errno.desc())),
            }
        }
        loop {
            if let Some(end) = self.early.iter().position(|&byte| byte == b'\n') {
                let answer: Vec<u8> = self.early.drain(..=end).collect();
                let answer = String::from_utf8_lossy(&answer).trim().to_string();
                let is_right = value(&answer, "cmd").is_some_and(|said| said == wanted)
                    && value(&answer, "rc").is_none_or(|code| code == "0");
                return if is_right { Ok(answer) } else { Err(format!("it answers {answer:?} to {command:?}")) };
            }
            if self.early.len() > MAX_LINE_BYTES {
                return Err(format!("it answers at endless length to {command:?}"));
            }
            let mut bytes = [0; 1024];
            match recv(self.fd, &mut bytes, MsgFlags::MSG_DONTWAIT) {
                Ok(0) => return Err(format!("it hung up at {command:?}")),
                Ok(got) => self.early.extend_from_slice(&bytes[..got]),
                Err(Errno::EAGAIN | Errno::EINTR) => self.pause(command)?,
                Err(errno) => return Err(format!("PMI_FD={}: {}", self.fd, errno.desc())),
            }
        }
    }

    fn pause(&self, command: &str) -> std::result::Result<(), String> {
        if Instant::now() >= self.deadline {
            return Err(format!("no answer to {command:?} in time; all ranks have to come"));
        }
        std::thread::sleep(PAUSE);
        Ok(())
    }
}

/// What a line says of `name`.
fn value<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    line.split_ascii_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;
    use std::io::{BufRead, BufReader, Write};
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    /// Hydra's end, until the rank is done or `says` nothing.
    fn serve(stream: UnixStream, says: impl Fn(&str, &mut HashMap<String, String>) -> Option<String>) {
        let mut notes = HashMap::new();
        for line in BufReader::new(&stream).lines().map_while(std::result::Result::ok) {
            let Some(answer) = says(&line, &mut notes) else { return };
            (&stream).write_all(format!("{answer}\n").as_bytes()).unwrap();
        }
    }

    fn hydra(line: &str, notes: &mut HashMap<String, String>) -> Option<String> {
        let said = |name| value(line, name).unwrap().to_string();
        Some(match value(line, "cmd").unwrap() {
            "init" => "cmd=response_to_init pmi_version=1 pmi_subversion=1 rc=0".into(),
            "get_my_kvsname" => "cmd=my_kvsname kvsname=kvs_7_0".into(),
            "put" => {
                notes.insert(said("key"), said("value"));
                "cmd=put_result rc=0 msg=success".into()
            }
            "barrier_in" => "cmd=barrier_out".into(),
            "get" => match notes.get(&said("key")) {
                Some(note) => format!("cmd=get_result rc=0 msg=success value={note}"),
                None => "cmd=get_result rc=-1 msg=key_not_found".into(),
            },
            "finalize" => "cmd=finalize_ack".into(),
            _ => return None,
        })
    }

    fn exchange(
        address: Option<&str>,
        says: impl Fn(&str, &mut HashMap<String, String>) -> Option<String> + Send + 'static,
    ) -> std::result::Result<Board, String> {
        let (mine, theirs) = UnixStream::pair().unwrap();
        let server = std::thread::spawn(move || serve(theirs, says));
        let deadline = Instant::now() + Duration::from_millis(300);
        let outcome = Line { fd: mine.as_raw_fd(), deadline, early: Vec::new() }.exchange(address);
        drop(mine);
        server.join().unwrap();
        outcome
    }

    #[test]
    fn rank_0s_note_is_found() {
        let board = exchange(Some("10.1.2.3"), hydra).unwrap();
        assert_eq!(board, Board { host: "10.1.2.3".into(), job: "kvs_7_0".into() });
    }

    #[test]
    fn what_goes_wrong_is_said() {
        assert!(exchange(None, hydra).unwrap_err().contains("key_not_found"));
        assert!(exchange(None, |_, _| None).unwrap_err().contains("hung up at \"cmd=init"));
        assert!(exchange(None, |_, _| Some("cmd=what".into())).unwrap_err().contains("cmd=what"));
        assert!(exchange(None, |_, _| Some("x".repeat(9000))).unwrap_err().contains("endless"));
        let late = |line: &str, notes: &mut _| match value(line, "cmd") {
            Some("barrier_in") => Some(String::new()),
            _ => hydra(line, notes),
        };
        assert!(exchange(Some("::1"), late).is_err());
    }
}
