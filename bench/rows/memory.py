"""What the server holds: idle, with open streams, after them, and over their number."""

import pathlib
import time

from harness import MIB, pss
from target import held_streams

STREAMS = 1000
ANSWER = "sim: tokens=100 rate=20 bytes=21 hold=1"  # 2,100 bytes, then the stream stays open
DELTAS = 100
SETTLE_SECONDS = 60
LINE = [1, *range(500, 5001, 500)]


def whole(pids):
    """PSS of all processes of a server."""
    return sum(pss(pid) for pid in pids)


def peak(pid):
    """The largest resident size that the process ever had."""
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def plain(run, bench):
    served = run.target.serve(bench)
    time.sleep(2)
    yield "memory.idle", [whole(served.pids) / MIB], ""
    yield from opened(run, bench, served, "memory", "64M")


def tls(run, bench):
    served = run.target.serve(bench, tls=True, memory="96M")
    time.sleep(2)
    yield from opened(run, bench, served, "memory-tls", "96M")


def opened(run, bench, served, group, memory):
    """Streams open and closed again."""
    idle = whole(served.pids)
    client = held_streams(bench, served.chat, STREAMS, ANSWER, ready_deltas=DELTAS)
    full = whole(served.pids)
    bench.report(client)
    detail = f"limits.memory = {memory}, idle {idle / MIB:.1f} MiB"
    yield f"{group}.open", [full / MIB], detail
    yield f"{group}.each", [(full - idle) / STREAMS / 1024], ""
    yield f"{group}.peak", [sum(peak(pid) for pid in served.pids) / MIB], detail
    if not run.smoke:
        time.sleep(SETTLE_SECONDS)
        yield f"{group}.after", [(whole(served.pids) - idle) / MIB], ""


def long_answers(run, bench):
    """The same streams with a short answer and a long one, each on a server of its own.

    Slow enough that no stream ever waits: what a busy machine lets pile up is not the answer's length.
    """
    streams, each = 100, {}
    for deltas in (64, 512):
        served = run.target.serve(bench)
        time.sleep(1)
        # The code that a stream runs is no part of any answer: a short one has it mapped before.
        bench.report(held_streams(bench, served.chat, 1, "sim: tokens=2 rate=40 bytes=21", ready_deltas=2))
        idle = whole(served.pids)
        answer = f"sim: tokens={deltas} rate=40 bytes=1024 hold=1"
        client = held_streams(bench, served.chat, streams, answer, ready_deltas=deltas, ramp=2)
        each[deltas] = (whole(served.pids) - idle) / streams / 1024
        bench.report(client)
    detail = ", ".join(f"{size:.1f} KiB with {deltas} KiB" for deltas, size in each.items())
    yield "memory-long.growth", [each[512] - each[64]], detail


def line(run, bench):
    kinds = [("plain", False)] if run.peer else [("plain", False), ("tls", True)]
    for name, over_tls in kinds:
        served = run.target.serve(bench, tls=over_tls, memory="512M")
        time.sleep(2)
        points, clients, open_streams = [(0, whole(served.pids))], [], 0
        for number in LINE:
            more = number - open_streams
            answer = "sim: tokens=100 rate=100 bytes=21 hold=1"
            clients.append(held_streams(bench, served.chat, more, answer, ready_deltas=DELTAS, ramp=more / 500))
            open_streams = number
            points.append((number, whole(served.pids)))
        for client in clients:
            bench.report(client)
        if served.process:
            bench.stop(served.process)
        run.series.setdefault("pss", {})[name] = points
        slope, worst, fit = straight(points[1:])
        yield f"memory-line.{name}", [worst * 100], f"{slope / 1024:.1f} KiB a stream, R² {fit:.5f}"


def straight(points):
    """Slope of the least-squares line, the largest distance from it over the whole growth, and R²."""
    count = len(points)
    mean_x, mean_y = (sum(point[axis] for point in points) / count for axis in (0, 1))
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread
    off = [y - mean_y - slope * (x - mean_x) for x, y in points]
    total = sum((y - mean_y) ** 2 for _, y in points)
    growth = slope * (points[-1][0] - points[0][0])
    return slope, max(map(abs, off)) / growth, 1 - sum(each**2 for each in off) / total
