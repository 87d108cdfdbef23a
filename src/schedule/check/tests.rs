//! Each rule, broken by hand in the smallest program that can.
#![forbid(unsafe_code)]
