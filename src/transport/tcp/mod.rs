//! Links over TCP.
//!
//! ```text
//!   interface   which address to listen on, which ports may be used
//!   handshake   both sides prove that they hold the job secret; nothing is kept for those who do not
//!     frame     its few messages, bounded before they are read
//!   endpoint    the listening socket: lets ranks in, keeps their connections until they are asked for
//!     dial      the other side of that: calls until somebody answers
//!   link        the two ends of a link over one or more connections
//!     fifo      bytes between the caller's memory and a socket
//!     phase     where in a page they should begin
//! ```
#![forbid(unsafe_code)]

mod dial;
pub mod endpoint;
mod fifo;
mod frame;
pub mod handshake;
pub mod interface;
pub mod link;
mod phase;
#[cfg(test)]
mod tests;

pub use dial::Persistence;
pub use endpoint::{Endpoint, LinkKey, LinkSide};
pub use handshake::Secret;
pub use interface::PortRange;
pub use link::{TcpRx, TcpTx};
