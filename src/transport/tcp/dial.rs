//! Calling a rank whose endpoint may not listen yet, or is busy turning strangers away.
#![forbid(unsafe_code)]

use super::handshake::{CANCEL_POLL, initiate_unless};
use super::lobby::Connection;
use super::terms::Terms;
use crate::error::{Error, Result};
use crate::types::Rank;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, Protocol, Socket, Type};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// How long to go on trying.
#[derive(Clone, Copy)]
pub struct Persistence<'a> {
    /// Not after this.
    pub deadline: Instant,
    /// Not once this gives an error: asked every 50 ms, and between two tries.
    pub cancelled: &'a dyn Fn() -> Option<Error>,
    /// No further try once the peer has left. The one under way is seen through: the peer may have taken it, done all its
    /// work with it and said goodbye before this side has heard that the connection stands.
    pub has_left: &'a dyn Fn() -> bool,
}

/// Connects to an address, from one of this host or any, and shakes hands, again and again while the reason for failing may
/// pass. `pause` sleeps between two tries.
pub fn dial(
    (from, addr): (Option<IpAddr>, SocketAddr),
    peer: Rank,
    terms: &Terms,
    hello: &[u8],
    persistence: &Persistence,
    pause: &dyn Fn(Duration),
) -> Result<Connection> {
    let Persistence { deadline, cancelled, has_left } = *persistence;
    let started = Instant::now();
    let mut wait = FIRST_PAUSE;
    loop {
        let outcome = connect(from, addr, deadline, cancelled).and_then(|stream| {
            let (_, session) = initiate_unless(&stream, terms, hello, deadline, cancelled)?;
            Ok((stream, session))
        });
        let error = match outcome {
            Ok(connection) => return Ok(connection),
            Err(error) => error,
        };
        if let Some(error) = cancelled() {
            return Err(error);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let waited = started.elapsed().as_secs_f64();
            return Err(Error::Bootstrap {
                what: format!("could not connect to rank {peer} at {addr} within {waited:.1} s ({error})"),
                missing: vec![peer],
            });
        }
        if !may_pass(&error) {
            return Err(error);
        }
        if has_left() {
            return Err(Error::bootstrap(format!("rank {peer} has left ({error})")));
        }
        pause(wait.min(left));
        wait = (wait * 2).min(LONGEST_PAUSE);
    }
}

/// Nobody listens yet; or the listener was so busy with strangers that it dropped us; or the way there is not up yet.
fn may_pass(error: &Error) -> bool {
    let Error::System { errno, .. } = error else { return false };
    matches!(
        Errno::from_raw(*errno),
        Errno::ECONNREFUSED
            | Errno::ECONNRESET
            | Errno::EPIPE
            | Errno::ETIMEDOUT
            | Errno::EHOSTUNREACH
            | Errno::ENETUNREACH
    )
}

fn connect(
    from: Option<IpAddr>,
    addr: SocketAddr,
    deadline: Instant,
    cancelled: &dyn Fn() -> Option<Error>,
) -> Result<TcpStream> {
    let failed = |source: std::io::Error| Error::system(format!("connecting to {addr}"), source);
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP)).map_err(failed)?;
    socket.set_nonblocking(true).map_err(failed)?;
    if let Some(from) = from {
        let bound = socket.bind(&SocketAddr::new(from, 0).into());
        bound.map_err(|error| Error::system(format!("connecting to {addr} from {from}"), error))?;
    }
    match socket.connect(&addr.into()) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(Errno::EINPROGRESS as i32) => {
            finish(&socket, deadline, cancelled).map_err(|error| match error {
                Unfinished::Cancelled(error) => error,
                Unfinished::Failed(errno) => failed(errno.into()),
            })?;
            if let Some(error) = socket.take_error().map_err(failed)? {
                return Err(failed(error));
            }
        }
        Err(error) => return Err(failed(error)),
    }
    let stream = TcpStream::from(socket);
    if stream.local_addr().is_ok_and(|mine| mine == addr) {
        // Dialling a free port of this very host can hit upon that port as one's own: TCP then connects us to ourselves.
        return Err(failed(Errno::ECONNREFUSED.into()));
    }
    stream.set_nonblocking(false).map_err(failed)?;
    Ok(stream)
}

enum Unfinished {
    Cancelled(Error),
    Failed(Errno),
}

/// Waits until the connection stands or has failed.
fn finish(
    socket: &Socket,
    deadline: Instant,
    cancelled: &dyn Fn() -> Option<Error>,
) -> std::result::Result<(), Unfinished> {
    loop {
        if let Some(error) = cancelled() {
            return Err(Unfinished::Cancelled(error));
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Unfinished::Failed(Errno::ETIMEDOUT));
        }
        let slice_ms = left.min(CANCEL_POLL).as_millis().max(1) as u16;
        match poll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)], PollTimeout::from(slice_ms)) {
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => return Ok(()),
            Err(errno) => return Err(Unfinished::Failed(errno)),
        }
    }
}
