//! The engine binds a program to memory and links and moves it to its end.
//!
//! ```text
//!   Call ──validate──> Submission ──admit──> Task { Plan, Layout, buffers, Progress }
//!                                               │  poll: every op as far as its watermarks, links and fences allow
//!   driver (whoever waits) ── turns ──> Lane ───┤
//!                                               └─> Completion
//! ```
#![forbid(unsafe_code)]

mod audit;
pub mod call;
mod completion;
mod crank;
mod driver;
mod express;
pub mod fate;
mod ferry;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod lane;
mod layout;
mod local;
mod offload;
mod outlook;
mod pace;
mod patience;
mod places;
mod plan;
mod planted;
pub mod port;
mod progress;
mod remains;
mod scaling;
mod settings;
mod steps;
mod task;
mod verdict;

#[cfg(test)]
pub(crate) use audit::SPOILS;
pub use call::{Call, Counts};
pub(crate) use completion::Completion;
pub(crate) use driver::Engine;
pub use driver::Reporter;
pub use fate::Fate;
#[cfg(any(test, feature = "sim"))]
pub(crate) use lane::Effort;
pub(crate) use lane::Lane;
pub(crate) use offload::Offload;
pub(crate) use pace::Pace;
pub(crate) use patience::Patience;
#[cfg(any(test, feature = "sim"))]
pub use planted::Mistake;
#[cfg(any(test, feature = "sim"))]
pub(crate) use planted::plant;
pub use port::Connector;
pub(crate) use settings::Settings;
pub(crate) use task::mix;
#[cfg(any(test, feature = "sim"))]
pub(crate) use verdict::Verdict;
