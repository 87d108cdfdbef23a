//! Measures and checks scatter; see `scatter_perf --help`.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    roundel::perf::main(roundel::Collective::Scatter)
}
