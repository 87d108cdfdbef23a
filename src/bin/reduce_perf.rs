//! Measures and checks reduce; see `reduce_perf --help`.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    roundel::perf::main(roundel::Collective::Reduce)
}
