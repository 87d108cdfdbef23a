//! Measures and checks all-gather; see `all_gather_perf --help`.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    roundel::perf::main(roundel::Collective::AllGather)
}
