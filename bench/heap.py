"""Allocation sites of the server by heaptrack.

heaptrack takes the place of malloc and free, which mimalloc does not call: the server is built
without the feature `mimalloc`. The recorder is loaded straight into the server (not through the
script `heaptrack`), so that the server is a process of ours and can be ended by its PID. Counts and
bytes are what the program asked for, without the allocator's own overhead.
"""

import os
import pathlib
import re
import subprocess

from harness import ROOT, Trouble, keep_alive_requests, need, wait_until_answers

PROGRAM = ROOT / "target" / "prof" / "cloudchat"
ROUNDS, STREAMS, REQUESTS = 10, 100, 1000
WORKLOAD = (f"{REQUESTS:,} `/test` on one connection; {ROUNDS} × {STREAMS} chats at once, each with an answer of 2 KB; "
            f"{STREAMS} chats that the clients abort; SIGTERM")
# A site is named by the innermost function outside of these.
PLUMBING = re.compile(r"<?(alloc|core|std|hashbrown|bytes|smallvec|indexmap|__rust|__rdl|__rustc)\b|<T as alloc"
                      r"|T::to_vec|_RNv\w*?(5alloc|4core|3std|7___rustc)|malloc|realloc|calloc|posix_memalign|aligned_alloc|__libc|_start|<unresolved")
# Rust's older mangling, which debug information still has.
ESCAPES = {"$LT$": "<", "$GT$": ">", "$RF$": "&", "$BP$": "*", "$C$": ",", "..": "::", "$u7b$": "{", "$u7d$": "}", "$u20$": " ",
           "$u5b$": "[", "$u5d$": "]", "$u27$": "'"}


def build():
    """The server with names in it and with the system's allocator."""
    command = ["cargo", "build", "--locked", "--profile", "prof", "--no-default-features", "-p", "cloudchat"]
    subprocess.run(command, cwd=ROOT, check=True)


def library(folder="/usr"):
    """The recorder's library and the program that reads what it wrote."""
    need("heaptrack")
    listed = subprocess.run(["dpkg", "-L", "libheaptrack"], capture_output=True, text=True).stdout.split()
    files = listed or [str(file) for file in pathlib.Path(folder).rglob("heaptrack/*")]
    found = {pathlib.Path(file).name: file for file in files}
    try:
        return found["libheaptrack_preload.so"], found["heaptrack_interpret"]
    except KeyError as missing:
        raise Trouble(f"heaptrack is installed without {missing}") from None


def record(bench):
    """Runs the workload; returns the file for heaptrack_print."""
    preload, interpret = library()
    raw, file = bench.folder / "heap.raw", bench.folder / "heap.txt"
    config, port = bench.configure(bench.provider()[0])
    environment = {**os.environ, "LD_PRELOAD": preload, "DUMP_HEAPTRACK_OUTPUT": str(raw)}
    process = bench.start([PROGRAM, "serve", "--config", config], env=environment)
    wait_until_answers(process, port, "/test", 20, poll=0.05)
    keep_alive_requests(port, "/test", REQUESTS)
    url = f"http://127.0.0.1:{port}/deepseek_chat"
    for _ in range(ROUNDS):
        client = bench.load(url, streams=STREAMS, message="sim: tokens=100 rate=100 bytes=21")
        report = bench.loaded(client, 60)
        if report["ends"] != {"stop": STREAMS}:
            raise Trouble(f"the chats ended otherwise: {report['ends']}")
    client, ready = bench.streams(url, streams=STREAMS, message="sim: tokens=20 rate=50 hold=1", ready_deltas=20, timeout=30)
    bench.report(client)
    if ready != STREAMS:
        raise Trouble(f"{ready} of {STREAMS} chats were ready")
    bench.stop(process)
    if process.returncode != 0:
        raise Trouble(f"the server ended with {process.returncode}")
    with open(raw, "rb") as source, open(file, "wb") as target:
        subprocess.run([interpret], stdin=source, stdout=target, stderr=subprocess.DEVNULL, check=True)
    return file


def folded(bench, file, cost):
    """(functions from outermost to innermost, cost) for every stack; costs are allocations, peak, leaked."""
    out = bench.folder / f"heap.{cost}"
    command = [need("heaptrack_print", "heaptrack"), "-f", file, "-F", out, "--flamegraph-cost-type", cost, "-p0", "-a0", "-T0", "-l0"]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode != 0:
        raise Trouble(f"heaptrack_print: {done.stderr.strip()[-200:]}")
    for line in out.read_text(errors="replace").splitlines():
        stack, _, number = line.rpartition(" ")
        yield [frame for frame in stack.split(";") if frame], int(number)


def site(stack):
    """The innermost function that is not plumbing, and the innermost of our own that led there."""
    named = [name for name in map(short, stack) if not PLUMBING.match(name)]
    inner = named[-1] if named else "start of the process"
    own = [name for name in named if name.startswith("cloudchat::")]
    return inner if not inner.startswith("0x") else "a library without symbols", own[-1] if own else "–"


def short(frame):
    """A function's path without hash, type parameters and file; an async fn's body goes by the function's name."""
    frame = re.sub(r"::h[0-9a-f]{16}\b.*| \([\w.-]+\.(rs|c)\)$", "", frame)
    for escape, character in ESCAPES.items():
        frame = frame.replace(escape, character)
    frame = re.sub(r"(^|::)_(?=[<{])", r"\1", frame)
    frame = re.sub(r"::\{+closure\}+", "", frame)
    if method := re.match(r"<(&?mut )?([\w:]+)(<.*?>)? as .*>::(\w+)$", frame):
        frame = f"{method[2]}::{method[4]}"
    while (bare := re.sub(r"(::)?(?<=[\w:])<[^<>]*>", "", frame)) != frame:
        frame = bare
    return frame.replace("|", "\\|")


def sites(bench, file):
    """({(site, by): {cost: number}}, {cost: sum}) for allocations, peak and leaked."""
    found, sums = {}, {}
    for cost in ("allocations", "peak", "leaked"):
        for stack, number in folded(bench, file, cost):
            each = found.setdefault(site(stack), {"allocations": 0, "peak": 0, "leaked": 0})
            each[cost] += number
            sums[cost] = sums.get(cost, 0) + number
    return found, sums
