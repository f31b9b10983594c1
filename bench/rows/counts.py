"""What is counted, not timed: allocations and instructions."""

import re
import subprocess

import callgrind
from harness import RELEASE, ROOT, Trouble, free_port, keep_alive_requests, need, wait_until_answers

REQUESTS = 2000  # under callgrind
ALLOCATIONS = ["cargo", "test", "--locked", "--quiet", "--package", "cloudchat", "--test", "allocations"]
# The lines that tests/allocations prints: row, its text, events or chats that the count is divided by.
COUNTED = [
    ("allocations.flood", "plain, 10,000 events at once", 10_000),
    ("allocations.paced", "plain, 2,000 events one by one", 2_000),
    ("allocations.tls", "TLS, 2,000 events one by one", 2_000),
    ("allocations.chat", "plain, both connections kept", 1),
]


def allocations(_run, _bench):
    command = [*ALLOCATIONS, "--", "--nocapture", "--test-threads=1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Trouble(f"`{' '.join(command)}` fails")
    for row, text, each in COUNTED:
        if not (found := re.search(rf"{re.escape(text)}: (\d+) allocations", done.stdout)):
            raise Trouble(f"tests/allocations does not say: {text}")
        yield row, [int(found[1]) / each], f"{found[1]} in all" if each > 1 else ""


def instructions(_run, bench):
    file, port = bench.configure("http://127.0.0.1:1/v1", workers=1)
    hello = free_port()
    runs = {
        "ours": ([RELEASE / "cloudchat", "serve", "--config", file], port),
        "hello": ([RELEASE / "hello", "--listen", f"127.0.0.1:{hello}", "--threads", "1"], hello),
    }
    each = {}
    for name, (command, listen) in runs.items():
        # The first start makes the databases, which would be taken off the requests.
        counted(bench, command, listen, 1)
        once, twice = (counted(bench, command, listen, n) for n in (REQUESTS, 2 * REQUESTS))
        each[name] = (twice - once) / REQUESTS
    yield "instructions.test", [each["ours"] / each["hello"]], f"{each['ours']:,.0f} / {each['hello']:,.0f}"


def parts(_run, bench):
    """Instructions of the transcoder, the router and JSON replies; also `bench/profile instructions`."""
    for name, count in callgrind.measure(bench):
        yield name, [count], ""


def counted(bench, command, port, requests):
    """Instructions of a whole run that answers so many requests over one connection."""
    out = bench.folder / f"callgrind.{port}.{requests}"
    process = bench.start([need("valgrind"), "--tool=callgrind", f"--callgrind-out-file={out}", *command],
                          stdout=subprocess.DEVNULL)
    wait_until_answers(process, port, "/test", 120, poll=0.2)
    keep_alive_requests(port, "/test", requests)
    bench.stop(process)
    if not (found := re.search(r"^(?:summary|totals): (\d+)", out.read_text(), re.M)):
        raise Trouble("callgrind wrote no total")
    return int(found[1])
