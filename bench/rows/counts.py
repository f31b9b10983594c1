"""What is counted, not timed: allocations and instructions."""

import re
import subprocess

import callgrind
from harness import ROOT, Trouble

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


def parts(_run, bench):
    """Instructions of the transcoder, the router and JSON replies; also `bench/profile instructions`."""
    for name, count in callgrind.measure(bench):
        yield name, [count], ""
