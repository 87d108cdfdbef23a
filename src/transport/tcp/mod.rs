//! Links over TCP.
//!
//! ```text
//!   interface   which address to bind, which ports may be used
//!   frame       the few length-prefixed messages of a handshake, bounded before they are read
//!   handshake   both sides prove that they hold the job secret; nothing is kept for those who do not
//! ```
#![forbid(unsafe_code)]

mod frame;
pub mod handshake;
pub mod interface;

pub use handshake::Secret;
pub use interface::PortRange;
