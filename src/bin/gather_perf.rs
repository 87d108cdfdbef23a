//! Measures and checks gather; see `gather_perf --help`.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    roundel::perf::main(roundel::Collective::Gather)
}
