"""The token path, side by side: through the server, through Nginx, and straight from the provider."""

import json
import statistics
import subprocess

from harness import RELEASE, Trouble
from target import Reference, alternating, cpu_us_per_token, run_streams


class Sides:
    """The three ways to the same provider."""

    def __init__(self, run, bench):
        self.bench = bench
        served = run.target.serve(bench)
        nginx = Reference(bench, served.provider)
        self.ways = {
            "ours": (served.chat, served.pids, "ours"),
            "nginx": (nginx.chat, nginx.pids, "sse"),
            "none": (served.provider_chat, [], "sse"),
        }

    def rounds(self, count, names=("ours", "nginx", "none"), **options):
        """One report for each way and round, the order turned around every time."""
        return [{name: self.report(name, options) for name in order} for order in alternating(count, *names)]

    def report(self, name, options):
        url, pids, target = self.ways[name]
        return run_streams(self.bench, url, pids, target=target, **options)


def added(rounds, figure, percentile):
    """Per round, what ours and Nginx add to the median without a proxy, in µs."""
    pairs = []
    for one in rounds:
        base = one["none"][figure]["p50"]
        pairs.append(tuple(one[name][figure][percentile] - base for name in ("ours", "nginx")))
    return pairs


def ratios(pairs):
    """Ours over Nginx per round, and the medians of both. What noise has made negative tells nothing."""
    found = [ours / nginx for ours, nginx in pairs if nginx > 1]
    if not found:
        raise Trouble("Nginx adds nothing that can be measured here")
    ours, nginx = (statistics.median(pair[side] for pair in pairs) for side in (0, 1))
    return found, f"{ours:,.0f} / {nginx:,.0f} µs"


def percentile_rows(prefix, rounds, figure, percentiles):
    for percentile in percentiles:
        values, detail = ratios(added(rounds, figure, percentile))
        yield f"{prefix}{percentile}", values, detail


def delay_and_cpu(run, bench):
    rounds = Sides(run, bench).rounds(run.rounds, streams=200, rate=50, ramp=1, warmup=2, seconds=2 + run.seconds)
    cpu = [{name: cpu_us_per_token(one[name]) for name in ("ours", "nginx")} for one in rounds]
    ours, nginx = (statistics.median(one[name] for one in cpu) for name in ("ours", "nginx"))
    client = statistics.median(one["ours"]["client_cpu_us_per_delta"] for one in rounds)
    detail = f"{ours:.1f} / {nginx:.1f} µs; the client's own {client:.1f} µs"
    yield "tokens.cpu", [one["ours"] / one["nginx"] for one in cpu], detail
    run.series["cpu"] = {name: [one[name] for one in cpu] for name in ("ours", "nginx")}
    run.series["delay"] = distribution(rounds)
    yield from percentile_rows("tokens.delay-", rounds, "delay_us", ("p50", "p99", "p999"))


def distribution(rounds):
    """Added delay by percentile, of the round whose ratio is the median one."""
    pairs = added(rounds, "delay_us", "p50")
    order = sorted(range(len(rounds)), key=lambda index: pairs[index][0] / max(pairs[index][1], 1))
    one = rounds[order[len(order) // 2]]
    base = one["none"]["delay_us"]["p50"]
    return {name: [[percentile, us - base] for percentile, us in one[name]["delay_us"]["points"]] for name in one}


def first_text(run, bench):
    turns = max(3, run.seconds)
    # Two tokens keep few answers running at once, so that their connections are the kept ones.
    rounds = Sides(run, bench).rounds(run.rounds, streams=50, tokens=2, rate=50, ramp=1, warmup=1,
                                      turns=1 + turns, turn_seconds=1)
    yield from percentile_rows("first-text.", rounds, "first_text_us", ("p50", "p99"))


def flood(run, bench):
    rounds = Sides(run, bench).rounds(run.rounds, ("ours", "nginx"), streams=1, rate=0, warmup=0.5,
                                      seconds=0.5 + run.seconds)
    each = [{name: report["window_deltas"] / run.seconds for name, report in one.items()} for one in rounds]
    ours, nginx = (statistics.median(one[name] for one in each) for name in ("ours", "nginx"))
    yield "flood.throughput", [one["ours"] / one["nginx"] for one in each], f"{ours:,.0f} / {nginx:,.0f} tokens/s"


def simulator(_run, bench):
    """That it is never what a measurement waits for."""
    process = bench.start([RELEASE / "provider", "--measure"], stdout=subprocess.PIPE, text=True)
    report = json.loads(process.stdout.readline() or "{}")
    bench.stop(process)
    if not report:
        raise Trouble("provider --measure printed nothing")
    flood_report, paced = report["flood"], report["paced"]
    yield "simulator.flood", [flood_report["deltas_per_second"] / 1000], f"{flood_report['cpu_us_per_delta']:.2f} µs CPU a token"
    yield "simulator.lateness", [paced["lateness_us"]["p99"] / 1000], f"p50 {paced['lateness_us']['p50'] / 1000:.2f} ms"
