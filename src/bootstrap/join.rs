//! A rank's way into its job: knock at the root's possible doors until one opens, then wait for the others.
//!
//! Nobody answers yet, somebody else answers, the root is busy: all that is tried again until the deadline. Only the root's
//! own word ends it sooner: wrong world, rank given twice.
#![forbid(unsafe_code)]

use super::address::Root;
use super::gate;
use super::messages::{FromRoot, Hello, Knock, Refusal};
use super::wire::Caller;
use super::{Seconds, prepare, sleep_until};
use crate::error::{Error, Result};
use crate::transport::tcp::{Guard, handshake};
use crate::types::Rank;
use nix::poll::{PollFd, PollFlags};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// What one knock may take in the first round; doubled each round. A silent stranger at one port must not use up the
/// time for the others, and a busy root must get its chance in the end.
const FIRST_PATIENCE: Duration = Duration::from_millis(500);
const LAST_PATIENCE: Duration = Duration::from_secs(8);
/// Pause between rounds: first and last.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LAST_PAUSE: Duration = Duration::from_millis(250);
/// The root's word on a join that failed may come so much later than the deadline.
const GRACE: Duration = Duration::from_secs(2);

/// A rank that is in.
pub(super) struct Joined {
    /// Its inbox may hold the beginning of what follows the start.
    pub root: Caller,
    /// Ranks in the root's process.
    pub beside_root: Vec<Rank>,
}

/// Why one knock did not get the rank in.
enum Rebuff {
    /// Another door, or later.
    Elsewhere { what: String, telling: Telling },
    /// Nothing will help.
    Final(Error),
}

/// How much a rebuff says about what is wrong; of several the most telling is reported.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Telling {
    NobodyThere,
    NotOurs,
    RootsWord,
}

/// Joins the job. `doors` are given where they are known; else the root's candidates.
pub(super) fn join(
    root: &Root,
    door: Option<SocketAddr>,
    guard: Guard,
    hello: &Hello,
    deadline: Instant,
) -> Result<Joined> {
    let (mut patience, mut pause) = (FIRST_PATIENCE, FIRST_PAUSE);
    let mut last: Option<(Telling, String)> = None;
    loop {
        let doors = match door {
            Some(door) => Ok(vec![door]),
            None => root.candidates(),
        };
        let mut round: Vec<(Telling, String)> = Vec::new();
        match &doors {
            Err(error) => round.push((Telling::NobodyThere, error.to_string())),
            Ok(doors) => {
                for door in doors {
                    if Instant::now() >= deadline {
                        break;
                    }
                    match knock(root, *door, guard, hello, patience, deadline) {
                        Ok(joined) => return Ok(joined),
                        Err(Rebuff::Final(error)) => return Err(error),
                        Err(Rebuff::Elsewhere { what, telling }) => round.push((telling, what)),
                    }
                }
            }
        }
        // A completed round replaces what earlier ones said: the root may have been late, and now be busy.
        last = round.into_iter().max_by_key(|(telling, _)| *telling).or(last);
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        std::thread::sleep(pause.min(left));
        (patience, pause) = ((patience * 2).min(LAST_PATIENCE), (pause * 2).min(LAST_PAUSE));
    }
    let last = last.map_or("there was no time to try".to_string(), |(_, what)| what);
    Err(Error::bootstrap(format!(
        "rank {} could not join its job at {} within {}: {last}; check that the process of rank 0 runs, that its host can \
         be reached there, and that ROUNDEL_SECRET or ROUNDEL_SECRET_FILE is the same on all ranks",
        hello.rank,
        root.describe(),
        Seconds(Duration::from_millis(hello.timeout_ms)),
    )))
}

fn knock(
    root: &Root,
    door: SocketAddr,
    guard: Guard,
    hello: &Hello,
    patience: Duration,
    deadline: Instant,
) -> std::result::Result<Joined, Rebuff> {
    let elsewhere = |telling, what: String| Rebuff::Elsewhere { what, telling };
    let nobody = |error: std::io::Error| elsewhere(Telling::NobodyThere, format!("{door}: {error}"));
    let left = deadline.saturating_duration_since(Instant::now());
    let patience = patience.min(left).max(Duration::from_millis(1));
    let stream = TcpStream::connect_timeout(&door, patience).map_err(nobody)?;
    prepare(&stream).map_err(nobody)?;

    let remaining_ms = deadline.saturating_duration_since(Instant::now()).as_millis() as u64;
    let hello = postcard::to_stdvec(&Knock::Hello(Hello { remaining_ms, ..hello.clone() }))
        .map_err(|error| Rebuff::Final(Error::bootstrap(format!("a hello that cannot be encoded: {error}"))))?;
    let terms = gate::terms(root.secret(), &root.job(), Some(guard));
    let (_, session) = handshake::initiate(&stream, &terms, &hello, Instant::now() + patience)
        .map_err(|error| elsewhere(Telling::NotOurs, error_words(&error)))?;
    stream.set_nonblocking(true).map_err(nobody)?;
    wait_for_start(Caller::new(stream, session), door, deadline + GRACE)
}

/// The root has our hello. It speaks when everybody is here, or when it is too late.
fn wait_for_start(mut root: Caller, door: SocketAddr, deadline: Instant) -> std::result::Result<Joined, Rebuff> {
    let elsewhere = |what: String| Rebuff::Elsewhere { what: format!("{door}: {what}"), telling: Telling::RootsWord };
    loop {
        match root.inbox.next::<FromRoot>() {
            Ok(None) => {}
            Ok(Some(FromRoot::Start { beside_root })) => return Ok(Joined { root, beside_root }),
            Ok(Some(FromRoot::Failed { error })) => return Err(Rebuff::Final(error)),
            Ok(Some(FromRoot::Refused(Refusal::Wrong(what)))) => return Err(Rebuff::Final(Error::bootstrap(what))),
            Ok(Some(FromRoot::Refused(Refusal::NotHere(what)))) => return Err(elsewhere(what)),
            Ok(Some(_)) => return Err(elsewhere("the root spoke of other things before the start".to_string())),
            Err(error) => return Err(elsewhere(error_words(&error))),
        }
        if Instant::now() >= deadline {
            return Err(elsewhere("the root let this rank in and then fell silent".to_string()));
        }
        sleep_until(&mut [PollFd::new(root.stream.as_fd(), PollFlags::POLLIN)], Some(deadline));
        match root.inbox.fill(&root.stream) {
            Ok(true) => {}
            Ok(false) => return Err(elsewhere("the root went away before the job started".to_string())),
            Err(error) => return Err(elsewhere(format!("the root went away before the job started ({error})"))),
        }
    }
}

/// An error's text without the words that the whole message begins with anyway.
fn error_words(error: &Error) -> String {
    match error {
        Error::Bootstrap { what, .. } => what.clone(),
        other => other.to_string(),
    }
}
