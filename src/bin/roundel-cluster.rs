//! A cluster on one machine; see `roundel-cluster --help`.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    roundel::cluster::main()
}
