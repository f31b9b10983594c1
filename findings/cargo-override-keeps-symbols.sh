#!/usr/bin/env bash
# Cargo 1.95.0: `strip = true` in [profile.release] has no effect on a package that also has a table of its own,
# [profile.release.package.NAME], even if that says nothing about stripping. Cargo then passes `-C strip=debuginfo`
# to rustc instead of `-C strip=symbols`: the program keeps its symbol table, and no warning says so. With
# `strip = true` in the package's table, too, it is stripped again.
# Expected: what an override does not name stays as the profile has it (Cargo's reference, Profiles, Overrides).
# Who is hurt: whoever ships a program and gives it an `opt-level` of its own to make it smaller. Ours grew by 1.6 MiB.
#
# Output seen (cargo 1.95.0, no crates):
#   profile only:                        strip=symbols
#   opt-level for the package:           strip=debuginfo
#   opt-level and strip for the package: strip=symbols
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cargo --version | grep -F 'cargo 1.95.0' || { echo "this needs cargo 1.95.0" >&2; exit 1; }
cd "$folder"
mkdir src
echo 'fn main() { println!("hello"); }' >src/main.rs

# The kind of stripping that rustc is asked for, with these lines behind the profile.
asked() {
  printf '[package]\nname = "hello"\nversion = "0.1.0"\nedition = "2024"\n[profile.release]\nstrip = true\n%s\n' "$1" >Cargo.toml
  touch src/main.rs
  cargo build --release --verbose 2>&1 | grep -oE 'strip=[a-z]+'
}

check() {
  local found
  found=$(asked "$3")
  printf '%-36s %s\n' "$1:" "$found"
  [ "$found" = "$2" ] || { echo "expected $2" >&2; exit 1; }
}

override=$'[profile.release.package.hello]\nopt-level = "s"'
check 'profile only' strip=symbols ''
check 'opt-level for the package' strip=debuginfo "$override"
check 'opt-level and strip for the package' strip=symbols "$override"$'\nstrip = true'
