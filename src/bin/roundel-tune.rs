//! Measures every way to do every collective and decides which to use; see `roundel-tune --help`.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    roundel::perf::tune::main()
}
