"""What passwords cost: the rate of logins beside bare argon2, and streams beside a storm of logins."""

import collections
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import threading
import time

from harness import MIB, Trouble, pss
from rows.memory import peak
from storm import Storm
from target import alternating, run_streams

CLIENTS = 64
# `limits.memory` of the storm, which the peak must stay below.
MEMORY_MIB = 64
# The hasher gives its memory back 5 s after the last login.
CALM_SECONDS, STORM_SECONDS, AFTER_SECONDS = 3, 8, 12
SAMPLE_SECONDS = 0.1

LOGINS_AT_ONCE = 4
HASHES = 9
# argon2-cffi hashes one after the other with the parameters of today, and prints the median in ms.
BARE = f"""
import statistics, time
from argon2 import Type, low_level
def once():
    begin = time.monotonic()
    low_level.hash_secret_raw(b"measured", bytes(16), time_cost=2, memory_cost=19456, parallelism=1, hash_len=32, type=Type.ID)
    return (time.monotonic() - begin) * 1000
once()
print(statistics.median(once() for _ in range({HASHES})))
"""


def login_storm(run, bench):
    """The same streams quiet and in the storm, in turn; then memory over time on a fresh server."""
    served = run.target.serve(bench, memory=f"{MEMORY_MIB}M")
    port = int(served.url.rsplit(":", 1)[1])
    storms = []

    def streams(name):
        options = {"streams": 200, "rate": 50, "ramp": 1, "warmup": 2, "seconds": 2 + run.seconds}
        if name == "none":
            return run_streams(bench, served.provider_chat, target="sse", **options)
        if name == "quiet":
            return run_streams(bench, served.chat, target="ours", **options)
        storms.append(Storm(port, CLIENTS))
        try:
            return run_streams(bench, served.chat, target="ours", **options)
        finally:
            storms[-1].stop()

    rounds = [{name: streams(name)["delay_us"] for name in order}
              for order in alternating(run.rounds, "quiet", "storm", "none")]
    added = [{name: one[name]["p99"] - one["none"]["p50"] for name in ("quiet", "storm")} for one in rounds]
    quiet, storm = (statistics.median(one[name] for one in added) for name in ("quiet", "storm"))
    detail = f"{storm:,.0f} / {quiet:,.0f} µs"
    yield "login-storm.delay-p99", [one["storm"] / max(one["quiet"], 1) for one in added], detail
    answers = sum((storm.statuses for storm in storms), collections.Counter())
    detail = f"{sum(answers.values()):,} logins: {dict(answers)}"
    yield "login-storm.wrong", [sum(storm.wrong() for storm in storms)], detail
    yield "login-storm.slowest", [max(storm.slowest for storm in storms)], ""
    yield "login-storm.peak", [peak(served.pids[0]) / MIB], f"limits.memory = {MEMORY_MIB}M"
    bench.stop(served.process)
    run.series["storm"] = {"ours": memory_over_time(run, bench)}


def memory_over_time(run, bench):
    """(seconds, PSS) of a fresh server before, in and after a storm."""
    served = run.target.serve(bench, memory=f"{MEMORY_MIB}M")
    points, ended, begin = [], threading.Event(), time.monotonic()

    def sample():
        while not ended.wait(SAMPLE_SECONDS):
            points.append((time.monotonic() - begin, pss(served.pids[0])))

    sampler = threading.Thread(target=sample, daemon=True)
    sampler.start()
    time.sleep(CALM_SECONDS)
    storm = Storm(int(served.url.rsplit(":", 1)[1]), CLIENTS)
    time.sleep(STORM_SECONDS)
    storm.stop()
    time.sleep(AFTER_SECONDS)
    ended.set()
    sampler.join()
    return points


def login_rate(run, bench):
    """Logins a second over hashes a second, each alone on the same core."""
    cores = os.sched_getaffinity(0)
    core, others = max(cores), cores - {max(cores)} or cores
    python = argon2_cffi(bench)
    try:
        os.sched_setaffinity(0, {core})
        served = run.target.serve(bench)
    finally:
        os.sched_setaffinity(0, cores)
    port = int(served.url.rsplit(":", 1)[1])

    def ours():
        os.sched_setaffinity(0, others)
        try:
            storm, begin = Storm(port, LOGINS_AT_ONCE), time.monotonic()
            time.sleep(run.seconds)
            done, seconds = storm.statuses[401], time.monotonic() - begin
            storm.stop()
        finally:
            os.sched_setaffinity(0, cores)
        if storm.wrong():
            raise Trouble(f"logins were answered with {dict(storm.statuses)}")
        return done / seconds

    def bare():
        os.sched_setaffinity(0, {core})
        try:
            done = subprocess.run([python, "-c", BARE], capture_output=True, text=True, check=True)
        finally:
            os.sched_setaffinity(0, cores)
        return 1000 / float(done.stdout)

    sides = {"ours": ours, "bare": bare}
    rounds = [{name: sides[name]() for name in order} for order in alternating(run.rounds, *sides)]
    logins, hashes = (statistics.median(one[name] for one in rounds) for name in sides)
    yield "login-rate.argon2", [one["ours"] / one["bare"] for one in rounds], f"{logins:.1f} / {hashes:.1f} a second"


def argon2_cffi(bench):
    """A Python that has argon2-cffi, from PyPI."""
    folder = pathlib.Path(tempfile.mkdtemp(dir=bench.folder))
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    command = [python, "-m", "pip", "-q", "install", "--disable-pip-version-check", "argon2-cffi==25.1.0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Trouble(f"argon2-cffi: {done.stderr.strip()[-200:]}")
    return python
