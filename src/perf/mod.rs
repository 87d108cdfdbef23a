//! The `*_perf` programs: measure a collective over a range of sizes and check every result.
pub mod args;
pub mod data;
pub mod geometry;
pub mod plot;
pub mod row;
pub mod stats;
