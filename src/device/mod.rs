//! Memory and arithmetic: what a rank does with bytes once they are within its reach.
//!
//! # The words
//!
//! | word | meaning |
//! |---|---|
//! | [`Fold`](host::Fold) | what is combined and how: element type, operation, number of ranks |
//! | `reduce` | n inputs, element by element, into m outputs, in one pass |
//! | `copy` | one input into m outputs, in one pass |
//! | `scale` | one input times a factor: the pre-pass of a pre-multiplied sum |
//! | [`Store`](host::Store) | whether what is written will be read again soon |
//!
//! # More than one device
//!
//! [`host`] is the device that every machine has: it does its work before it returns, over memory that everybody reaches. All
//! others stand behind [`Device`] and [`Queue`], with
//! - the same three functions, over memory of theirs and the host's;
//! - the same bits: [`host::reference`](mod@host::reference) is the definition, and one conformance suite is stamped on every
//!   device. An element's result depends on its operands and their order alone, never on its position, on alignment or on
//!   where the engine cut the spans;
//! - a queue instead of a return: work is put in line and a [`Mark`] behind it, and the engine asks whether it was passed.
#![deny(unsafe_code)]

mod choice;
#[cfg(test)]
pub(crate) mod conformance;
mod contract;
#[cfg(feature = "cuda")]
#[allow(unsafe_code)]
pub mod cuda;
pub mod emulated;
#[allow(unsafe_code)]
pub mod host;
#[allow(unsafe_code)]
mod names;
#[cfg(any(test, feature = "wgpu"))]
pub(crate) mod samples;
#[cfg(feature = "wgpu")]
pub mod wgpu;

pub use choice::open;
pub use contract::{Device, Mark, Memory, Queue, copy_now};
