//! A newcomer's way into a job that runs: knock at a rank that lives, be shown to the root, wait until the members admit
//! whoever waits.
//!
//! ```text
//!   newcomer --> any rank --"the root is there"--> root          waits
//!            --> store, where none of them is left
//!                                    members --(grow)--> root --"you are rank 7"--> newcomer
//! ```
#![forbid(unsafe_code)]

use super::invitation::Invitation;
use super::messages::{Admission, CONTROL_VERSION, Enlist, FromRoot, Knock, Refusal, ToRoot};
use super::roster::Seat;
use super::seek::Creed;
use super::store::{self, Shelf, Store};
use super::wire::{self, Caller};
use super::{gate, prepare, sleep_until};
use crate::error::{Error, Result};
use crate::transport::tcp::{PortRange, handshake, interface};
use nix::poll::{PollFd, PollFlags};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Between two rounds of knocking.
const PAUSE: Duration = Duration::from_millis(50);
/// How long the store may take to say where the job is.
const STORE_PATIENCE: Duration = Duration::from_secs(2);

/// A newcomer that is a rank now.
pub(super) struct Enlisted {
    pub caller: Caller,
    /// Its own door, which the others know.
    pub listener: TcpListener,
    pub admission: Admission,
}

/// Where a knock led.
enum Way {
    In(Box<Enlisted>),
    Elsewhere(SocketAddr),
}

/// Knocks until it is let in, or the deadline passes.
pub(super) fn enlist(
    invitation: &Invitation,
    creed: &Creed,
    ip: Option<IpAddr>,
    ports: Option<PortRange>,
    deadline: Instant,
) -> Result<Enlisted> {
    let nonce = getrandom::u64().map_err(|error| Error::bootstrap(format!("no random bytes: {error}")))?;
    let guard = creed.guard as u8;
    let who = Enlist { version: CONTROL_VERSION, job: creed.job, nonce, guard, store: creed.store.to_string() };
    let store = creed.store.open(Shelf { job: creed.job, run: invitation.run })?;
    let mut doors = invitation.doors.clone();
    loop {
        for &door in &doors {
            let mut way = wait_inside(door, &who, creed, ip, ports, deadline);
            if let Ok(Way::Elsewhere(root)) = way {
                way = wait_inside(root, &who, creed, ip, ports, deadline);
            }
            let last = match way {
                Ok(Way::In(enlisted)) => return Ok(*enlisted),
                Ok(Way::Elsewhere(address)) => Error::bootstrap(format!("the root has just moved to {address}")),
                Err(error) => error,
            };
            if Instant::now() >= deadline {
                let doors: Vec<String> = doors.iter().map(SocketAddr::to_string).collect();
                return Err(Error::bootstrap(format!(
                    "nobody let this newcomer in; it knocked at {}, and last: {last}; check that the job runs and that its \
                     members call grow()",
                    doors.join(", ")
                )));
            }
        }
        std::thread::sleep(PAUSE);
        if let Some(store) = &store {
            doors = doors_now(invitation, &**store, (Instant::now() + STORE_PATIENCE).min(deadline));
        }
    }
}

/// Where to knock after nobody has opened: first where the store says that the job is.
fn doors_now(invitation: &Invitation, store: &dyn Store, deadline: Instant) -> Vec<SocketAddr> {
    let mut doors = store::find(store, deadline).unwrap_or_else(|error| {
        tracing::warn!(%error, "the job's store does not say where the job is");
        Vec::new()
    });
    let others: Vec<SocketAddr> = invitation.doors.iter().copied().filter(|door| !doors.contains(door)).collect();
    doors.extend(others);
    doors
}

fn wait_inside(
    door: SocketAddr,
    who: &Enlist,
    creed: &Creed,
    ip: Option<IpAddr>,
    ports: Option<PortRange>,
    deadline: Instant,
) -> Result<Way> {
    let no_link = |error| Error::system(format!("reaching {door}"), error);
    let patience = creed.rhythm.timeout;
    let stream = TcpStream::connect_timeout(&door, patience).map_err(no_link)?;
    prepare(&stream).map_err(no_link)?;
    let knock = postcard::to_stdvec(&Knock::Enlist(who.clone()))
        .map_err(|error| Error::bootstrap(format!("a knock that cannot be encoded: {error}")))?;
    let terms = gate::terms(&creed.secret, &creed.job, Some(creed.guard));
    let (_, session) = handshake::initiate(&stream, &terms, &knock, Instant::now() + patience)?;
    stream.set_nonblocking(true).map_err(no_link)?;

    let ip = ip.unwrap_or(stream.local_addr().map_err(no_link)?.ip());
    let listener = interface::listen(ip, ports)?;
    let seat = Seat::here(listener.local_addr().map_err(no_link)?, creed.process)?;
    let mut caller = Caller::new(stream, session);
    caller.outbox.push(Arc::new(wire::encode(&ToRoot::Seat(seat))?));
    // The root gives signs of life; where it falls silent it may have been given up, and another is to be asked.
    let silence = 3 * patience;
    let mut give_up_at = Instant::now() + silence;
    loop {
        match caller.inbox.next::<FromRoot>()? {
            Some(FromRoot::Admitted(admission)) => {
                return Ok(Way::In(Box::new(Enlisted { caller, listener, admission: *admission })));
            }
            Some(FromRoot::Elsewhere { address }) => return Ok(Way::Elsewhere(address)),
            Some(FromRoot::Refused(Refusal::NotHere(what) | Refusal::Wrong(what))) => {
                return Err(Error::bootstrap(format!("{door}: {what}")));
            }
            Some(_) => continue,
            None => {}
        }
        caller.outbox.flush(&caller.stream).map_err(no_link)?;
        let wake_at = deadline.min(give_up_at);
        if Instant::now() >= wake_at {
            return Err(Error::bootstrap(format!("{door}: the members have not admitted anybody yet")));
        }
        let interest =
            if caller.outbox.is_empty() { PollFlags::POLLIN } else { PollFlags::POLLIN | PollFlags::POLLOUT };
        sleep_until(&mut [PollFd::new(caller.stream.as_fd(), interest)], Some(wake_at));
        let before_bytes = caller.inbox.received_bytes();
        if !caller.inbox.fill(&caller.stream).map_err(no_link)? {
            return Err(Error::bootstrap(format!("{door}: hung up")));
        }
        if caller.inbox.received_bytes() > before_bytes {
            give_up_at = Instant::now() + silence;
        }
    }
}
