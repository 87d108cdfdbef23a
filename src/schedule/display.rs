//! Programs as text.
#![forbid(unsafe_code)]
