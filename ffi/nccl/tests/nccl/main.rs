//! The library as its users see it: a file of C functions, and programs in C and Python that were written for NCCL.

mod exports;
mod header;
mod programs;
#[path = "../../../../tests/support/mod.rs"]
mod support;
mod toolbox;
