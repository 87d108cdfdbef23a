//! Roundel: collective communication for training and inference. All-reduce, broadcast, reduce-scatter and their kin over
//! CPU memory, between threads, processes and hosts, with the same bits on every rank and an error instead of a hang.
//!
//! ```
//! use roundel::{Communicator, Options, ReduceOp};
//!
//! // Four ranks as threads; under torchrun, mpirun or srun each process would call `Communicator::from_env()`.
//! let ranks = Communicator::threads(4, Options::default())?;
//! std::thread::scope(|scope| {
//!     for comm in &ranks {
//!         scope.spawn(move || {
//!             let mut gradient = vec![comm.rank() as f32; 1000];
//!             comm.all_reduce_in_place(&mut gradient, ReduceOp::Avg).unwrap();
//!             assert_eq!(gradient[999], 1.5);
//!         });
//!     }
//! });
//! # Ok::<(), roundel::Error>(())
//! ```
//!
//! # How a byte travels
//!
//! Follow one byte of an all-reduce, from the floor you call to the floor that moves it. Every step is a module, and
//! imports point down only.
//!
//! 1. **[`comm`]** A [`Communicator`] turns the typed call into a [`Call`]: a collective, an element type, counts and two
//!    [`Span`](memory::Span)s, and refuses what cannot be meant (lengths, overlap, roots).
//! 2. **[`engine`]** The calling thread becomes the driver of the communicator's lane. The [`tuner`] picks an algorithm
//!    from facts that are equal on all ranks, and [`schedule::catalogue`] writes this rank's [`schedule::Program`]: a
//!    dozen lines such as `recv+reduce in[3] from 2 into out[3]`. Nothing above or below knows what a ring is.
//! 3. A layout gives every chunk its bytes. From the program's *hazards* the engine knows which op must stay behind which,
//!    byte by byte; everything else overlaps.
//! 4. The byte leaves its buffer in one of three ways:
//!    - **another thread or process of this host, mapped memory** ([`Communicator::alloc`], or any buffer between threads):
//!      each rank reads its slice of everybody's input, adds in registers, and stores it to everybody's output. Two
//!      signals, no copy: the speed of n concurrent `memcpy`s.
//!    - **another process of this host, private memory**: a copy into this rank's staging slot, an n-ary sum out of all
//!      slots, a copy into the output, in rounds that stay in cache.
//!    - **another host**: bytes go over a *link* ([`transport::Tx`], [`transport::Rx`]): bounded, ordered, never blocking.
//!      TCP takes them straight from the caller's buffer and hands arriving ones to the sum as they come; checked or encrypted
//!      it copies them into records first. RDMA writes them into the peer's ring, where the sum reads them.
//! 5. **[`device`]** adds it to its peers' bytes: vectorised, in the canonical order, small floats accumulating in f32.
//!    Where the caller's buffers are on a device, its queue is given the same copies and sums, and ops move on as its marks are
//!    passed; between device and link a byte travels in slices, through host memory that both reach.
//! 6. The driver polls until all ops are done, spinning a little, yielding, then asleep on one doorbell and the sockets.
//!
//! Before step 4 the ranks have compared notes: the first bytes on every link, and the line that carries the first signal,
//! hold the call's [`Signature`]. Ranks that made different calls learn it there.
//!
//! When something breaks, whoever notices first sets the communicator's [`Fate`](engine::Fate) and tells the control plane
//! ([`bootstrap`]), which tells everybody; every wait looks at the fate, and so every call ends with the same error.
//!
//! # Where the design changed on the way
//!
//! - A link is a stream of bytes with room to reserve, not a row of slots: sockets then need no staging copy, and both
//!   ends need not agree on a slot size. A device can still fill what [`transport::Tx::reserve`] gives.
//! - [`schedule::Op::Signal`] names no receiver: a rank has one signal word that all its neighbours read, so one store
//!   tells everybody.
//! - A [`schedule::Loc`] in a slot also names the chunk whose data it holds; lengths follow from it.
//! - Sleeping is `poll(2)` on a Unix datagram socket rather than a futex, because one sleep must cover peers in shared
//!   memory, sockets and other threads alike.
//! - `reproducible` is one n-ary sum in rank order wherever it is used, over the network by sending every contribution to
//!   the chunk's owner ([`schedule::catalogue::Algorithm::Direct`]): the same bytes as a ring, and one rounding.
//!
//! # Settings
//!
//! [`Options`] has the table of `ROUNDEL_*` variables that communicators read; [`bootstrap::launcher`] those by which a
//! process finds its job. Besides: `ROUNDEL_LOG` (what is logged, see `log`), `ROUNDEL_CPU` (`portable`, `avx2`, `avx512`),
//! `ROUNDEL_HOST_ID` (ranks with equal names share memory), `ROUNDEL_ARENA_BYTES` (room for shared memory).
//!
//! # Features
//!
//! `tools` (default) builds the `*_perf` programs and pulls in what only they use. `etcd` (default) is the client behind
//! `ROUNDEL_STORE=etcd://..`; without it that setting is refused. `cuda` (default) is [`device::cuda`], GPUs of NVIDIA; it needs
//! nothing of CUDA to build, and a driver to run. `sim` brings the module `sim`, the deterministic simulation of
//! engine and control plane, and its program `roundel-sim`.

mod bare;
pub mod bootstrap;
#[cfg(feature = "tools")]
pub mod chaos;
#[cfg(feature = "tools")]
pub mod cluster;
pub mod comm;
pub mod device;
pub mod elastic;
pub mod element;
pub mod engine;
pub mod error;
mod fork;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzz;
#[cfg(feature = "tools")]
pub mod launch;
#[cfg(feature = "log")]
pub mod log;
pub mod memory;
#[cfg(feature = "tools")]
pub mod perf;
pub mod schedule;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
pub mod topology;
pub mod transport;
pub mod tuner;
pub mod types;

pub use bootstrap::UniqueId;
pub use comm::{Buffer, Communicator, DeviceBuffer, Explanation, Failed, Group, Options, Owned, Tune, Work};
pub use element::{Element, F8E4M3, F8E5M2};
pub use engine::{Call, Counts};
pub use error::{BufferState, Error, OpId, Result, Signature};
pub use topology::TransportChoice;
pub use types::{Collective, DType, Rank, ReduceOp, Scalar};
