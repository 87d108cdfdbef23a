//! What the watching costs is told by a build without it: `RUSTFLAGS="--cfg roundel_bare"`, which no feature and no user of the
//! library turns on by accident. In such a build ranks do not compare what they call, waits do not look whether
//! the communicator has failed, and nobody counts how far a rank has come. It is there to be measured (`benches/overhead.py`),
//! and for nothing else.
#![forbid(unsafe_code)]

/// This build watches over nothing.
pub(crate) const IS_BARE: bool = cfg!(roundel_bare);
