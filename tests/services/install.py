"""Installs what the tests' servers and their browser need from Debian or Ubuntu, and fetches a second PgBouncer.

The tests want a PgBouncer that knows nothing of prepared statements (before 1.21) and one that
does. A distribution has one of them; the other comes from a neighbouring release, unpacked into a
folder below `target`, with the libraries it was built against. The system is not touched for it.
"""

import contextlib
import fcntl
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDER = Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target")) / "services"
# The release that has the other PgBouncer: 1.24 in trixie, 1.18 in bookworm, 1.22 in noble, 1.16 in jammy.
NEIGHBOURS = {"bookworm": "trixie", "trixie": "bookworm", "noble": "jammy", "jammy": "noble"}
# First PgBouncer that tracks prepared statements in transaction mode.
TRACKS_STATEMENTS = (1, 21)
POLICY = Path("/usr/sbin/policy-rc.d")
NO_CLUSTER = Path("/etc/postgresql-common/createcluster.d/cloudchat-tests.conf")
SECONDS_MAX = 600


class Missing(Exception):
    """Something that the tests need cannot be had; the text says what to install."""


def postgres_folder():
    """The folder with `postgres`, `initdb` and `psql` of the newest version installed, or None."""
    folders = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    return max(folders, key=lambda folder: int(folder.parent.name), default=None)


def install():
    """Installs what is missing. Returns the folder of PostgreSQL and the two PgBouncers, as command lines."""
    packages = []
    if postgres_folder() is None:
        packages.append("postgresql")
    if shutil.which("redis-server") is None or shutil.which("redis-cli") is None:
        packages.append("redis-server")
    if shutil.which("pgbouncer", path="/usr/sbin:/usr/bin") is None:
        packages.append("pgbouncer")
    if shutil.which("nginx", path="/usr/sbin:/usr/bin") is None:
        packages.append("nginx")
    # Ubuntu has it as a snap only; there the tests say what to install.
    if shutil.which("chromedriver") is None and os_release("ID") == "debian":
        packages += ["chromium", "chromium-driver"]
    FOLDER.mkdir(parents=True, exist_ok=True)
    with open(FOLDER / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if packages:
            apt_install(packages)
        own = [shutil.which("pgbouncer", path="/usr/sbin:/usr/bin")]
        other = neighbour()
        tracks = pgbouncer_version(own) >= TRACKS_STATEMENTS
        if tracks == (pgbouncer_version(other) >= TRACKS_STATEMENTS):
            raise Missing("both PgBouncers are on the same side of 1.21; one older and one newer are needed")
    new, old = (own, other) if tracks else (other, own)
    return postgres_folder(), new, old


def pgbouncer_version(command):
    text = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True, timeout=10).stdout
    return tuple(int(part) for part in re.search(r"PgBouncer (\d+)\.(\d+)", text).groups())


def apt_install(packages):
    """Installs packages without starting or enabling their services, and without making a database cluster."""
    if shutil.which("apt-get") is None:
        raise Missing(f"please install: {' '.join(packages)}")
    with servers_left_alone():
        before = units()
        root(["apt-get", "update", "-qq"])
        root(["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "-y", "-qq", "--no-install-recommends",
              "--no-remove", "-o", "DPkg::Lock::Timeout=300", *packages])
        if shutil.which("systemctl"):
            for unit in units() - before:
                root(["systemctl", "disable", "--quiet", unit])


def units():
    folder = Path("/lib/systemd/system")
    return {path.name for path in folder.glob("*.service") if re.match(r"(postgresql|redis|pgbouncer|nginx)[^@]*$", path.stem)}


def root(command):
    prefix = [] if os.getuid() == 0 else ["sudo"]
    done = subprocess.run([*prefix, *command], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SECONDS_MAX)
    if done.returncode != 0:
        raise Missing(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")


@contextlib.contextmanager
def servers_left_alone():
    """While packages are installed, no service starts. A policy that is there already is the operator's and stays."""
    made = []
    for path, text, mode in [(POLICY, "#!/bin/sh\nexit 101\n", "755"), (NO_CLUSTER, "create_main_cluster = false\n", "644")]:
        if path.exists():
            continue
        with tempfile.NamedTemporaryFile("w") as file:
            file.write(text)
            file.flush()
            made.append(path)
            root(["install", "-D", "-m", mode, file.name, str(path)])
    try:
        yield
    finally:
        for path in made:
            root(["rm", "-f", str(path)])


def neighbour():
    """The command that starts the PgBouncer of the neighbouring release; fetched once."""
    folder = FOLDER / "pgbouncer"
    if not (folder / "complete").exists():
        release = neighbouring_release()
        shutil.rmtree(folder, ignore_errors=True)
        fetch(release, folder)
        (folder / "complete").write_text(release + "\n")
    loader = next(folder.glob("**/ld-linux*.so*"), None)
    binary = next(folder.glob("usr/sbin/pgbouncer"), None)
    if loader is None or binary is None:
        raise Missing(f"{folder} is not complete; remove it and try again")
    libraries = sorted({str(path.parent) for path in folder.glob("**/*.so*") if "gconv" not in path.parts})
    return [str(loader), "--library-path", ":".join(libraries), str(binary)]


def os_release(name):
    for line in Path("/etc/os-release").read_text().splitlines():
        key, _, value = line.partition("=")
        if key == name:
            return value.strip('"')
    return ""


def neighbouring_release():
    codename = os_release("VERSION_CODENAME")
    if codename not in NEIGHBOURS:
        raise Missing(f"the tests need a PgBouncer before 1.21 and one from 1.21 on; for the release {codename!r} it is "
                      f"not known where the other one comes from: please run on {', '.join(NEIGHBOURS)}")
    return NEIGHBOURS[codename]


def fetch(release, folder):
    """Unpacks the PgBouncer of this release with its libraries, by a package index of our own."""
    apt = FOLDER / "apt"
    shutil.rmtree(apt, ignore_errors=True)
    for path in ["lists/partial", "cache/archives/partial", "debs"]:
        (apt / path).mkdir(parents=True)
    (apt / "status").touch()
    keyring = f"/usr/share/keyrings/{os_release('ID')}-archive-keyring.gpg"
    component = "universe" if os_release("ID") == "ubuntu" else "main"
    sources = [f"deb [signed-by={keyring}] {own_mirror()} {release} main"]
    if component != "main":
        sources.append(f"deb [signed-by={keyring}] {own_mirror()} {release} {component}")
    (apt / "sources.list").write_text("\n".join(sources) + "\n")
    options = {
        "Dir::Etc::SourceList": apt / "sources.list", "Dir::Etc::SourceParts": "-", "Dir::Etc::Preferences": "-",
        "Dir::Etc::PreferencesParts": "-", "Dir::State::Lists": apt / "lists", "Dir::State::Status": apt / "status",
        "Dir::Cache": apt / "cache", "APT::Sandbox::User": "root", "Acquire::Languages": "none",
    }
    options = [text for name, value in options.items() for text in ("-o", f"{name}={value}")]

    def run(*command):
        done = subprocess.run([command[0], *options, *command[1:]], cwd=apt / "debs", capture_output=True, text=True,
                              timeout=SECONDS_MAX)
        if done.returncode != 0:
            raise Missing(f"a PgBouncer of {release} cannot be had: {done.stdout}{done.stderr}")
        return done.stdout

    run("apt-get", "update", "-qq")
    wanted, seen = ["pgbouncer"], set()
    while wanted:
        package = wanted.pop()
        seen.add(package)
        depends = re.findall(r"^ +(?:Pre)?Depends: ((?:lib|zlib)\S*)$", run("apt-cache", "depends", package), re.M)
        wanted += [name for name in depends if name not in seen and name not in wanted]
    run("apt-get", "download", "-qq", *sorted(seen))
    for deb in (apt / "debs").glob("*.deb"):
        subprocess.run(["dpkg-deb", "-x", deb, folder], check=True, timeout=60)
    shutil.rmtree(apt)


def own_mirror():
    """The address this machine's packages come from."""
    targets = subprocess.run(["apt-get", "indextargets", "--format", "$(SITE) $(RELEASE)", "Created-By: Packages"],
                             capture_output=True, text=True, check=True, timeout=60).stdout
    for line in targets.splitlines():
        site, _, release = line.partition(" ")
        if release == os_release("VERSION_CODENAME"):
            return site
    raise Missing("no package source of this release is configured, see apt-get indextargets")
