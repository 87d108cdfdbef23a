//! The name under which programs ask the dynamic linker for NCCL.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libnccl.so.2");
    // Threads of ours may outlive the caller's interest in the library: `dlclose` must not pull the code from under them.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
}
