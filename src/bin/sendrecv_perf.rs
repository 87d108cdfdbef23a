//! Measures and checks send and receive around a ring; see `sendrecv_perf --help`.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    roundel::perf::main(roundel::Collective::SendRecv)
}
