//! Runs simulated schedules and says what they went through; see `roundel-sim --help`.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    roundel::sim::program::main()
}
