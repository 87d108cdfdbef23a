//! Measures and checks broadcast; see `broadcast_perf --help`.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    roundel::perf::main(roundel::Collective::Broadcast)
}
