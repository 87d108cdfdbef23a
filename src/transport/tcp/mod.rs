//! Links over TCP.
//!
//! ```text
//!   interface   which address to listen on, which ports may be used
//!   secret      32 bytes that few know
//!   digest      one hash for all that ranks must derive alike
//!   handshake   both sides prove that they hold the job secret; nothing is kept for those who do not
//!     terms     what they must have in common
//!     frame     its few messages, bounded before they are read
//!     session   what it leaves: keys
//!     porch     callers who have not finished it
//!   endpoint    a rank's door: listens, dials, makes links
//!     hello     which connection of which link somebody brings
//!     lobby     where they wait until they are asked for
//!     dial      the other side of that: calls until somebody answers
//!   record      protected bytes: checksums and encryption
//!   link        the two ends of a link over one or more connections
//!     way       how its bytes get across, one of these:
//!     stripes   over one interface: by turns over its sockets
//!     rails     over several interfaces: to whichever has room, and round those that die
//!     fifo      bytes between the caller's memory and a socket
//!     phase     where in a page they should begin
//! ```
#![deny(unsafe_code)]

mod dial;
pub mod digest;
pub mod endpoint;
mod fifo;
mod frame;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
pub mod handshake;
mod hello;
pub mod interface;
pub mod link;
mod lobby;
mod phase;
pub mod porch;
pub mod rails;
pub mod record;
pub mod secret;
pub mod session;
mod stripes;
#[cfg(test)]
mod tamper_tests;
pub mod terms;
#[cfg(test)]
mod tests;
mod way;

pub use dial::Persistence;
pub use endpoint::{Callee, Endpoint, Identity};
pub use hello::{LinkKey, LinkSide, Strands};
pub use interface::PortRange;
pub use link::{TcpRx, TcpTx};
pub use secret::Secret;
pub use session::Session;
pub use terms::{Guard, Terms};
