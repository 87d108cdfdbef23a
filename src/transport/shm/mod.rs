//! Memory shared by the ranks of one host, whether they are processes or threads of one process: the same code, the
//! same rings and flags.
//!
//! Every rank owns one [`Arena`], a sparse memory file without a name that only its descriptor can reach, so nothing is
//! left behind by any death. At world initialisation each rank opens a [`Door`] and puts a [`LocalCard`] into what the
//! ranks exchange; with it the others [`attach`](fn@attach) and see the whole arena. From then on everything, for any number of
//! communicators, is offsets:
//!
//! ```text
//!   arena of rank 0                                  arena of rank 1
//!   ┌──────────────┬──────────┬───────┬─ ─ ─        ┌──────────────┬───────┬─ ─ ─
//!   │ area         │ block    │ area  │  free       │ area         │ area  │  free
//!   │ (world)      │ (a user  │ (after│             │ (world)      │ (after│
//!   │              │  buffer) │ split)│             │              │ split)│
//!   └──────┬───────┴──────────┴───────┴─ ─ ─        └──────────────┴───────┴─ ─ ─
//!          │
//!          ├─ control words: signals and messages, asleep, abort, inside, detached
//!          ├─ one byte ring per neighbour and channel: the neighbour writes, the owner reads
//!          └─ two halves of staging memory
//! ```
//!
//! Bottom up: `freelist` says which bytes of an arena are free, `mapping` is a memory file and a view of it,
//! `arena` joins the two, `door` and `attach` hand arenas around; `word` is an atomic in shared memory, on which
//! `ring` and `doorbell` are built; `area` lays out what one communicator needs and `neighbours` is what the
//! engine sees of it.
//!
//! A peer may die at any instruction, so no lock lies in shared memory, and whatever is read from there is checked
//! against what can be before it is used as a length or a position.

mod area;
mod arena;
mod attach;
mod door;
mod doorbell;
mod face;
mod freelist;
mod mapping;
mod neighbours;
mod ring;
mod word;

#[cfg(test)]
mod interleavings;
#[cfg(test)]
mod neighbours_tests;
#[cfg(test)]
mod process_tests;

pub use area::{Area, AreaCard, AreaShape};
pub use arena::{ARENA_SIZE_VARIABLE, Arena, Block, PeerArena};
pub use attach::{LocalCard, attach, same_process};
pub use door::Door;
pub use doorbell::{Doorbell, Nap, Waker};
pub use neighbours::{Member, Neighbours};

use crate::error::{Error, Result};
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::SocketAddr;

/// 16 random bytes: the name of an arena, a door or a doorbell, which nobody can guess.
type Id = [u8; 16];

fn random_id() -> Result<Id> {
    let mut id = [0; 16];
    getrandom::fill(&mut id)
        .map_err(|error| Error::system("drawing a random name", io::Error::other(error.to_string())))?;
    Ok(id)
}

/// The name a socket has in Linux's abstract namespace, where a name lives exactly as long as its socket. In text, so
/// that `ss -x` can be read by people.
fn socket_name(kind: &str, id: &Id) -> String {
    let digits: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("roundel-{kind}-{digits}")
}

fn socket_address(kind: &str, id: &Id) -> SocketAddr {
    SocketAddr::from_abstract_name(socket_name(kind, id)).expect("47 bytes fit into a socket address")
}
