//! Links over several networks at once: *rails*, one for each interface that `ROUNDEL_IFACE` names.
//!
//! The stream of bytes is cut into numbered *parcels*. Each goes over whichever rail has room first, so that the shares
//! follow what the rails carry; the receiver puts them in order. What the receiver has taken it says in *receipts*, and
//! the sender keeps all bytes until then: when a rail dies, what went over it and has no receipt goes over the others.
//!
//! ```text
//!   caller ──> ring, 4 MiB ──> parcels ──> rail 0: socket, socket  ──> ring, 4 MiB ──> caller
//!              sender      └─────────────> rail 1: socket, socket  ──┘ receiver
//!                 ^                                                       │
//!                 └──────── receipts: one more socket of each rail <──────┘    every receipt over every rail
//!
//!   parcel     a parcel's header, a receipt
//!   manifest   the sender's book: what is on its way, and over which rail
//!   reassembly the receiver's book: what has come
//!   sender     the sending end        watch    several sockets, to sleep on as one
//!   receiver   the receiving end      vitals   what the kernel knows of a connection
//!   keeper     a thread that looks after links while their caller is elsewhere
//! ```
//!
//! A sending call has done its work when the kernel has all bytes, as over one rail. So somebody else must send again what
//! is lost after that: the keeper, which looks at every link that waits for receipts ten times a second and sleeps while
//! none does. It is also who notices a rail that is silent rather than broken (a cable that was pulled), from what the kernel
//! has sent again in vain; who sends the receipts that a call did not find worth a system call; and who tells.
//!
//! Receipts have a socket of their own because a sender may close its link with bytes on their way: the kernel delivers
//! them, unless something arrives that nobody will read.
//!
//! Where the link is protected the stream is one of records, and the sealing is above all this. Headers and receipts go in the
//! clear, with a checksum: who changes one on purpose can make the link fail and no byte wrong.
#![deny(unsafe_code)]

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
pub mod keeper;
mod manifest;
pub(super) mod parcel;
mod reassembly;
mod receiver;
mod sender;
#[cfg(test)]
mod tests;
mod vitals;
mod watch;

pub use keeper::Keeper;
pub(super) use receiver::RailsIn;
pub(super) use sender::RailsOut;

use crate::error::{Error, Result};
use crate::types::Rank;
use nix::errno::Errno;
use socket2::SockRef;
use std::net::TcpStream;
use std::sync::Arc;

/// What may be on its way: sent by one end and not taken at the other. Both ends have room for so much.
const WINDOW_BYTES: usize = 4 * 1024 * 1024;
/// The largest parcel. Small enough for a slow rail not to hold up a fast one, large enough that its header costs nothing.
const PARCEL_BYTES: usize = 64 * 1024;
/// Parcels that may be on their way, however small they are.
const MAX_PARCELS: usize = 4096;
/// What the kernel may hold of a rail's bytes without having sent them. With more, a slow rail would have taken a larger
/// share than it can carry by the time the others are done.
const UNSENT_BYTES: u32 = 128 * 1024;

/// One rail of a link: its connections, in the order that both ends have them in.
pub(super) struct Rail {
    /// Which of the interfaces it is, counted from 0.
    pub(super) number: usize,
    /// Data goes over these, both ways.
    pub(super) data: Vec<Arc<TcpStream>>,
    /// Receipts go over this, both ways.
    pub(super) receipts: Arc<TcpStream>,
}

impl Rail {
    /// How people know it.
    fn name(&self) -> String {
        let end = |addr: std::io::Result<std::net::SocketAddr>| {
            addr.map_or_else(|_| "?".to_string(), |addr| addr.ip().to_string())
        };
        format!("rail {} ({} to {})", self.number, end(self.receipts.local_addr()), end(self.receipts.peer_addr()))
    }
}

/// Makes the two ends of this rank's side of a link to `peer`. The other side lists the same rails in the same order.
pub(super) fn link(peer: Rank, rails: Vec<Rail>, keeper: &Arc<Keeper>) -> Result<(RailsOut, RailsIn)> {
    for stream in rails.iter().flat_map(|rail| &rail.data) {
        let limited = SockRef::from(&**stream).set_tcp_notsent_lowat(UNSENT_BYTES);
        limited.map_err(|error| Error::system("setting TCP_NOTSENT_LOWAT", error))?;
    }
    let rails: Arc<[Rail]> = rails.into();
    Ok((RailsOut::new(peer, rails.clone(), keeper)?, RailsIn::new(peer, rails, keeper)?))
}

fn lost(peer: Rank, what: String) -> Error {
    Error::PeerLost { suspects: vec![peer], what, during: None }
}

/// What became of a connection, for [`lost`] and for the log.
fn words(errno: Errno) -> String {
    match errno {
        Errno::ECONNRESET | Errno::EPIPE => "closed its connection".into(),
        errno => format!("cannot be reached any more ({})", errno.desc()),
    }
}
