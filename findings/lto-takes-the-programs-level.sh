#!/usr/bin/env bash
# Rust 1.95.0, lto = "fat": a crate that is compiled with opt-level = 3 ([profile.release.package.NAME]) loses its
# vectorized loops if the *program* is compiled with "s": what puts the crates together works at the program's level
# for all of them, and at "s" it vectorizes no loop. Cargo's reference (Profiles, Overrides) says of neither.
# Expected: code of that crate as with opt-level = 3, since the level is set for it and is kept as attributes of its functions.
# Who is hurt: whoever makes a program small by a low level for it and keeps the hot crates at 3. A check of each
# byte of a header's value took 11 instructions a byte instead of less than one.
#
# Output seen (rustc 1.95.0, x86-64, instructions with vector registers in the crate's function):
#   program at 3: 36
#   program at s: 0
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
rustc --version | grep -F 'rustc 1.95.0' || { echo "this needs Rust 1.95.0" >&2; exit 1; }
[ "$(uname -m)" = x86_64 ] || { echo "this needs x86-64" >&2; exit 1; }
command -v objdump >/dev/null || { echo "this needs objdump (binutils)" >&2; exit 1; }
cd "$folder"
mkdir -p src hot/src
cat >hot/Cargo.toml <<'TOML'
[package]
name = "hot"
version = "0.1.0"
edition = "2024"
TOML
cat >hot/src/lib.rs <<'RUST'
#[unsafe(no_mangle)]
#[inline(never)]
pub fn has_control(bytes: &[u8]) -> bool {
    let mut found = false;
    for &byte in bytes {
        found |= byte < 32 && byte != 9;
    }
    found
}
RUST
cat >src/main.rs <<'RUST'
fn main() {
    let text = std::env::args().last().unwrap_or_default();
    std::process::exit(i32::from(hot::has_control(text.as_bytes())));
}
RUST

# How many instructions of the function use vector registers when the program is at this level.
vectors() {
  cat >Cargo.toml <<TOML
[package]
name = "program"
version = "0.1.0"
edition = "2024"
[dependencies]
hot = { path = "hot" }
[profile.release]
lto = "fat"
codegen-units = 1
opt-level = $1
[profile.release.package.hot]
opt-level = 3
TOML
  cargo build --release --quiet
  objdump --disassemble=has_control --no-show-raw-insn target/release/program | grep -c '%xmm' || true
}

at_3=$(vectors 3)
at_s=$(vectors '"s"')
printf 'program at 3: %s\nprogram at s: %s\n' "$at_3" "$at_s"
[ "$at_3" -gt 10 ] && [ "$at_s" -eq 0 ]
