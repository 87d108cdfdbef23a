//! Roundel: collective communication over CPU and GPU memory.

pub mod bootstrap;
pub mod comm;
pub mod device;
pub mod element;
pub mod engine;
pub mod error;
#[cfg(feature = "tools")]
pub mod launch;
pub mod memory;
#[cfg(feature = "tools")]
pub mod perf;
pub mod schedule;
pub mod topology;
pub mod transport;
pub mod tuner;
pub mod types;

pub use bootstrap::UniqueId;
pub use comm::{Buffer, Communicator, Explanation, Failed, Group, Options, Owned, Work};
pub use element::{Element, F8E4M3, F8E5M2};
pub use engine::{Call, Counts};
pub use error::{Error, OpId, Result, Signature};
pub use topology::TransportChoice;
pub use types::{Collective, DType, Rank, ReduceOp, Scalar};
