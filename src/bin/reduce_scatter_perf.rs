//! Measures and checks reduce-scatter; see `reduce_scatter_perf --help`.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    roundel::perf::main(roundel::Collective::ReduceScatter)
}
