//! Measures and checks all-reduce; see `all_reduce_perf --help`.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    roundel::perf::main(roundel::Collective::AllReduce)
}
