//! Breaks a running job on purpose and checks what the others make of it; see `roundel-chaos --help`.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    roundel::chaos::main()
}
