//! Measures and checks all-to-all; see `alltoall_perf --help`.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    roundel::perf::main(roundel::Collective::AllToAll)
}
