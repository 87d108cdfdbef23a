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
//! # What a second device must offer
//!
//! [`host`] is the device that every machine has. CUDA and wgpu will stand beside it as `device::cuda` and
//! `device::wgpu`, with
//! - the same three functions, over memory of theirs (and the host's, where they can map it);
//! - the same bits: [`host::reference`](mod@host::reference) is the definition, and its conformance tests are to be stamped on every device.
//!   An element's result depends on its operands and their order alone, never on its position, on alignment or on where
//!   the engine cut the spans;
//! - a queue instead of a return: work is put in line and a *mark* behind it, and the engine asks a mark whether it was
//!   passed. The host does its work before it returns, so its marks are always passed.
//!
//! There is no trait yet: one device is not enough to draw its outline from.
#![deny(unsafe_code)]

#[allow(unsafe_code)]
pub mod host;
