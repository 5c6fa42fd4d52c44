//! Links the binary to a fixed place in memory. Otherwise each supervisor pays for every pointer in every table of the whole
//! program, most of which it never reads: see docs/adr/0011.

fn main() {
    println!("cargo::rustc-link-arg-bins=-no-pie");
    println!("cargo::rerun-if-changed=build.rs");
}
