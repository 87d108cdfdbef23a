//! The C ABI as C and C++ programs meet it: this builds the library, compiles the programs beside it with every compiler
//! that is here, and runs them as the ranks of jobs.

// What the support of all tests calls the library.
extern crate library as roundel;

mod build;
mod examples;
mod failures;
mod header;
mod jobs;
mod programs;
#[path = "../../../../tests/support/mod.rs"]
mod support;
mod survival;
mod symbols;
