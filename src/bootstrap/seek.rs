//! When the root is gone: find the next one, or be it.
//!
//! Everybody knows the same row of heirs: the ranks, from the lowest. So everybody knocks at the first that is not known
//! to be gone, and the first itself takes over. A process that has ended refuses the connection, and the next in the row
//! is tried at once; one that is frozen or cut off does not answer within the time of silence, and is given up.
//!
//! ```text
//!   root was beside rank 0, rank 1 has died too:    2 --refused--> 1     2 takes over
//!                                                   3 --refused--> 1,  3 ----------> 2
//! ```
//!
//! A rank that is wrong about the root (it was cut off, or slept) hears so from whomever it knocks at.
#![forbid(unsafe_code)]

use super::knowledge::Event;
use super::member::{Link, Shared};
use super::messages::{CONTROL_VERSION, FromRoot, Gone, Knock, Return, ToRoot};
use super::root;
use super::standby::{Standby, silence};
use super::store::StoreChoice;
use super::succession::longest_interregnum;
use super::vigil::Rhythm;
use super::wire::{Caller, Inbox};
use super::{gate, prepare, sleep_until};
use crate::error::{Error, Result};
use crate::transport::tcp::{Guard, Secret, handshake};
use crate::types::Rank;
use nix::poll::{PollFd, PollFlags};
use std::cell::Cell;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Between two knocks at a door that was just being opened.
const PAUSE: Duration = Duration::from_millis(2);

/// How this rank's job knows itself.
pub(super) struct Creed {
    pub secret: Secret,
    pub job: [u8; 16],
    pub rhythm: Rhythm,
    /// How its connections are protected.
    pub guard: Guard,
    /// Where it keeps what it keeps outside itself.
    pub store: StoreChoice,
    /// This process ([`crate::topology::detect::process_id`]).
    pub process: u64,
}

/// The way to the next root, over which this rank has said what it knows.
pub(super) type Line = (Arc<TcpStream>, Inbox);

/// How a knock ended.
enum Answer {
    /// This is the root, and it has said so.
    Root(Line),
    /// The root is there.
    Elsewhere(SocketAddr),
    /// The others have given this rank up.
    Expelled(Gone),
    /// Nobody listens: the process has ended.
    NobodyThere,
    /// Nothing that can be used; the door may be changing hands.
    Nothing,
    /// It let this rank in, and then nothing came.
    InVain,
}

/// The next root, once it reigns. `what` is how the connection to the last one ended. An error when this rank is not of the
/// job any more, or `is_enough` says so.
pub(super) fn seek(
    shared: &Shared,
    creed: &Creed,
    standby: &mut Standby,
    what: &str,
    is_enough: &dyn Fn() -> bool,
) -> Result<Line> {
    // Whoever is not silent answers within this time; a successor waits as long for those who are late.
    let patience = creed.rhythm.timeout;
    let mut tried: Option<(Rank, Instant)> = None;
    loop {
        if let Some(how) = shared.knows(|knowledge| knowledge.expelled().cloned()) {
            let what = format!("was given up by the others: it {}", how.words());
            return Err(Error::PeerLost { suspects: vec![shared.rank], what, during: None });
        }
        if is_enough() {
            return Err(Error::bootstrap("this rank leaves, and the root is gone"));
        }
        let Some((heir, seat)) = shared.knows(|knowledge| knowledge.heirs().into_iter().next()) else {
            return Err(Error::bootstrap("the root service is gone, and no rank knows another yet"));
        };
        let since = match tried {
            Some((rank, since)) if rank == heir => since,
            _ => Instant::now(),
        };
        tried = Some((heir, since));
        if heir == shared.rank
            && let Some((listeners, parked)) = standby.hand_over()
        {
            root::succeed(listeners, parked, creed, shared.knows(root::Inheritance::of))?;
        }
        // When patience is over it is tried a last time, from the beginning: this process may have slept over the answer.
        let is_last = since.elapsed() > patience;
        let patience = if is_last { patience / 2 } else { patience };
        let mut answer = knock(shared, creed, seat.door, patience, &|| seat.is_still());
        if let Answer::Elsewhere(address) = answer {
            answer = knock(shared, creed, address, patience, &|| false);
        }
        // Let in, and kept waiting for longer than any reign takes to begin: no second try is needed.
        let is_last = is_last || since.elapsed() > 3 * creed.rhythm.timeout;
        match answer {
            Answer::Root(line) => return Ok(line),
            Answer::Expelled(how) => shared.announce(Event::Gone(shared.rank, how)),
            // Now it is certain that the root's process has ended, and with it all its ranks. But not that it has not given this
            // rank up before, and gone on with others.
            Answer::NobodyThere if shared.knows(|knowledge| knowledge.was_beside_root(heir)) => {
                shared.lose_root(Some(&Gone::Ended { what: what.to_string(), in_good_order: false }));
            }
            Answer::NobodyThere if heir != shared.rank => {
                let how = shared.knows(|knowledge| knowledge.ended_meanwhile());
                shared.announce(Event::Gone(heir, how));
            }
            _ if is_last && heir != shared.rank => {
                shared.announce(Event::Gone(heir, silence(heir, seat.is_still(), since.elapsed()).untold()));
            }
            // Only this rank itself is left.
            _ if is_last && since.elapsed() > 3 * creed.rhythm.timeout => {
                return Err(Error::bootstrap("this rank could not take over from the root that is gone"));
            }
            _ => std::thread::sleep(PAUSE),
        }
    }
}

/// `is_still`: whoever lives there is seen to be stopped.
fn knock(shared: &Shared, creed: &Creed, door: SocketAddr, patience: Duration, is_still: &dyn Fn() -> bool) -> Answer {
    let stream = match TcpStream::connect_timeout(&door, patience) {
        Ok(stream) => stream,
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => return Answer::NobodyThere,
        Err(_) => return Answer::Nothing,
    };
    match talk(shared, creed, stream, patience, is_still) {
        Ok(answer) => answer,
        Err(error) => {
            tracing::debug!(rank = shared.rank, %door, %error, "no root here yet");
            Answer::Nothing
        }
    }
}

fn talk(
    shared: &Shared,
    creed: &Creed,
    stream: TcpStream,
    patience: Duration,
    is_still: &dyn Fn() -> bool,
) -> Result<Answer> {
    let unprepared = |error| Error::system("preparing a control connection", error);
    prepare(&stream).map_err(unprepared)?;
    let who = Return {
        version: CONTROL_VERSION,
        job: creed.job,
        rank: shared.rank,
        reign: shared.knows(|knowledge| knowledge.reign()),
    };
    let knock = postcard::to_stdvec(&Knock::Return(who))
        .map_err(|error| Error::bootstrap(format!("a knock that cannot be encoded: {error}")))?;
    let terms = gate::terms(&creed.secret, &creed.job, Some(creed.guard));
    let (_, session) = handshake::initiate(&stream, &terms, &knock, Instant::now() + patience)?;
    stream.set_nonblocking(true).map_err(unprepared)?;
    let Caller { stream, inbox, outbox } = Caller::new(stream, session);
    let stream = Arc::new(stream);
    // A reign begins when all have said what they know: it goes before the answer.
    shared.follow(stream.clone(), outbox);
    let deadline = Instant::now() + longest_interregnum(creed.rhythm.timeout);
    // Stopped for so long that it will know, when it wakes, that it slept over its reign.
    let still_since = Cell::new(None);
    let is_vain = || {
        let now = Instant::now();
        still_since.set(is_still().then(|| still_since.get().unwrap_or(now)));
        now >= deadline || still_since.get().is_some_and(|since| now - since > creed.rhythm.timeout)
    };
    let answer = hear_out(shared, stream, inbox, deadline, &is_vain);
    if let (Ok(Answer::InVain), Some(link)) = (&answer, shared.link()) {
        // It may have begun to reign just before it was stopped. Should it wake, it finds this, and knows that it was given up.
        link.send(&ToRoot::Deposed { is_certain: is_still() });
    }
    if !matches!(answer, Ok(Answer::Root(_))) {
        shared.cut();
    }
    answer
}

/// Between two looks at a successor that keeps those waiting whom it has let in.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Waits for the answer to a knock, as long as that is not in vain.
fn hear_out(
    shared: &Shared,
    stream: Arc<TcpStream>,
    mut inbox: Inbox,
    deadline: Instant,
    is_vain: &dyn Fn() -> bool,
) -> Result<Answer> {
    loop {
        match inbox.next::<FromRoot>()? {
            Some(reign @ FromRoot::Reign { .. }) => {
                shared.hear(reign);
                return Ok(Answer::Root((stream, inbox)));
            }
            Some(FromRoot::Elsewhere { address }) => return Ok(Answer::Elsewhere(address)),
            Some(FromRoot::Gone { rank, how }) if rank == shared.rank => return Ok(Answer::Expelled(how)),
            Some(FromRoot::Alive) => continue,
            Some(_) => return Ok(Answer::Nothing),
            None => {}
        }
        if is_vain() {
            return Ok(Answer::InVain);
        }
        let has_more = shared.link().is_some_and(Link::flush);
        let interest = if has_more { PollFlags::POLLIN | PollFlags::POLLOUT } else { PollFlags::POLLIN };
        sleep_until(&mut [PollFd::new(stream.as_fd(), interest)], Some(deadline.min(Instant::now() + LOOK_AGAIN)));
        let lost = |error| Error::system("waiting for the next root", error);
        if !inbox.fill(&stream).map_err(lost)? {
            return Ok(Answer::Nothing);
        }
    }
}
