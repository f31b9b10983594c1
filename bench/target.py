"""The server that is measured: ours, started for each group of rows, or a peer that runs already."""

import dataclasses
import json
import os
import subprocess
import time

from harness import RELEASE, Trouble, children, request


@dataclasses.dataclass
class Served:
    """A server that answers, and the provider behind it."""

    url: str
    pids: list
    provider: str  # base URL, with /v1
    process: object = None

    @property
    def chat(self):
        return self.url + "/deepseek_chat"

    @property
    def provider_chat(self):
        return self.provider + "/chat/completions"


class Ours:
    """This repository's server, a fresh one with a simulator of its own for each call."""

    def serve(self, bench, tls=False, memory="64M", **options):
        provider, authority = bench.provider(tls)
        process, port = bench.server(provider, authority, memory=memory, **options)
        return Served(f"http://127.0.0.1:{port}", [process.pid], provider, process)


class Peer:
    """A server that somebody else has started, on a provider whose address it was given."""

    def __init__(self, url, pids, provider):
        self.url, self.pids, self.provider = url.rstrip("/"), pids, provider.rstrip("/")

    def serve(self, _bench, tls=False, **_options):
        if tls:
            raise Trouble("a peer is measured over plain HTTP only")
        for pid in self.pids:
            if not os.path.exists(f"/proc/{pid}"):
                raise Trouble(f"there is no process {pid}")
        return Served(self.url, self.pids, self.provider)


class Reference:
    """Nginx in front of the same provider, with as many workers as there are cores."""

    def __init__(self, bench, provider):
        process, port = bench.nginx(provider, os.cpu_count())
        self.pids = children(process.pid)
        self.chat = f"http://127.0.0.1:{port}/v1/chat/completions"


def deltas(provider):
    """Deltas that the simulator has sent so far."""
    port = int(provider.split(":")[2].split("/")[0])
    return json.loads(request(port, "/sim/stats")[2])["deltas"]


def run_streams(bench, url, pids=(), **options):
    """Runs the stream client to its end, and returns its report; a damaged stream is a trouble."""
    words = [word for pid in pids for word in ("--pid", pid)]
    for name, value in options.items():
        words += [f"--{name.replace('_', '-')}", value]
    process = bench.start([RELEASE / "streams", "--url", url, *words], stdout=subprocess.PIPE, text=True)
    line = process.stdout.readline()
    process.wait(60)
    bench.stop(process)
    if not line:
        raise Trouble(f"the stream client ended with {process.returncode}")
    report = json.loads(line)
    sound(url, report)
    return report


def sound(url, report):
    """Fails when an answer was refused, or a delta lost, merged, reordered or sent twice."""
    bad = {key: report[key] for key in ("lost", "merged", "reordered", "duplicated", "foreign", "failed") if report.get(key)}
    if bad:
        raise Trouble(f"{url}: {bad}")


def held_streams(bench, url, streams, message, **options):
    """Opens streams that stay open once their answer has come; all of them must be ready."""
    options = {"ramp": 5, "timeout": 60, **options}
    client, ready = bench.streams(url, streams=streams, message=message, **options)
    if ready != streams:
        raise Trouble(f"only {ready} of {streams} streams are ready: {bench.report(client)}")
    time.sleep(2)
    return client


def alternating(rounds, *names):
    """The names once per round, the order turned around every time."""
    return [names if index % 2 == 0 else names[::-1] for index in range(rounds)]


def cpu_us_per_token(report):
    """CPU of the watched processes for each forwarded delta."""
    return sum(pid["cpu_us"] for pid in report["pids"].values()) / report["window_deltas"]
