//! Roundel for C: `libroundel.so`, `libroundel.a` and `roundel.h`, which is generated from this crate's documentation.
//!
//! ```text
//!   C caller ──> exported function ──> boundary   no panic leaves; an error becomes a code and this thread's last error
//!                                  ──> handles    a number becomes a communicator, or an error when it is none
//!                                  ──> arguments  pointers, counts and enumerators become spans and types, or an error
//!                                  ──> asked      the arguments of a call become a call
//!                                  ──> route      runs the call, starts it, or adds it to this thread's group
//! ```
//!
//! Nothing here moves a byte: the floor below is the Rust crate (`library`), and its checks are not repeated.
#![allow(non_camel_case_types, reason = "the names are those of the header")]

mod names;

// What is exported, in the order of the header.
mod last_error;

mod version;

mod unique_id;

mod options;

mod comm;

mod survival;

mod memory;

mod reductions;

mod exchanges;

mod messages;

mod reduce_op;

mod work;

mod group;

mod explain;

// What stands behind it.
mod arguments;
mod asked;
mod boundary;
mod handles;
mod route;

#[cfg(not(target_pointer_width = "64"))]
compile_error!("handles need 64 bits");
