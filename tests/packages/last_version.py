"""The .deb of the last version, by its own packages/build, from git: what upgrades begin with."""

import os
import shutil
import subprocess

import kit

COMMIT = "c21c16333c009e4b8d7c9ad0c2a9e1e1194fa825"
FOLDER = kit.TARGET / "packages"


def build():
    """Its path. Only the first run compiles, after that of the present version, whose crates serve for both."""
    name = f"last-{COMMIT[:7]}"
    deb, source = FOLDER / f"{name}.deb", FOLDER / name
    if deb.exists():
        return deb
    print(f"== the .deb of the last version ({COMMIT[:7]}), which only the first run compiles, in two minutes", flush=True)
    git = ["git", "-C", kit.REPOSITORY]
    is_there = subprocess.run([*git, "cat-file", "-e", f"{COMMIT}^{{commit}}"], stderr=subprocess.DEVNULL).returncode == 0
    kit.check(is_there, f"this clone has no commit {COMMIT}, the last version: git fetch --unshallow")
    shutil.rmtree(source, ignore_errors=True)
    (source / "target/release").mkdir(parents=True)
    files = subprocess.run([*git, "archive", COMMIT], check=True, stdout=subprocess.PIPE).stdout
    subprocess.run(["tar", "-x", "-C", source], check=True, input=files)
    # What differs is compiled anew. Cargo believes the first of them, so it is copied before what it is about.
    for folder in (".fingerprint", "build", "deps"):
        kit.run("cp", "-a", kit.TARGET / "release" / folder, source / "target/release")
    # It has cargo-deb.
    (source / "target/tools").symlink_to(kit.TARGET / "tools")
    done = subprocess.run([source / "packages/build", "deb"], check=True, stdout=subprocess.PIPE, text=True)
    os.replace(source / done.stdout.splitlines()[-1], deb)
    shutil.rmtree(source)
    return deb
