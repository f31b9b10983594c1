"""How big the program is, and how fast it starts."""

import statistics
import subprocess
import time

from harness import MIB, RELEASE, wait_until_answers

STARTS = 20


def size(_run, _bench):
    yield "size.binary", [(RELEASE / "cloudchat").stat().st_size / MIB], ""


def cold_start(_run, bench):
    file, port = bench.configure(bench.provider()[0])
    times = []
    for _ in range(STARTS):
        begin = time.monotonic()
        process = bench.start([RELEASE / "cloudchat", "serve", "--config", file], stderr=subprocess.DEVNULL)
        wait_until_answers(process, port, "/test", 10, poll=0.0002)
        times.append((time.monotonic() - begin) * 1000)
        bench.stop(process)
    yield "start.cold", [statistics.median(times)], f"fastest {min(times):.1f} ms, slowest {max(times):.1f} ms"
