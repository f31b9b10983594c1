"""Instruction counts of parts of the server, under valgrind's callgrind.

The counts do not depend on the machine's speed or load, hence they can gate a change. One server
runs under callgrind; `callgrind_control` writes and resets its counters between one kind of
request and the next, so a part costs no start of its own.
"""

import re
import socket
import statistics
import subprocess
import time

from harness import RELEASE, ROOT, Trouble, need, wait_until_answers

WARM_UP, REQUESTS = 50, 500
TIMES = 500  # a recording through the transcoder
EVENTS, EVENTS_PER_SECOND = 300, 100
SHORT = 30  # events of the stream that is subtracted
PAIRS = 7

GET = "GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n"
POST = ("POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: bench\r\nContent-Type: application/json\r\n"
        "Content-Length: {length}\r\n\r\n{body}")

# Row of budget.toml: the request, the status that it gets.
ASKED = {
    "counts.not-found": (GET.format(path="/nowhere"), 404),
    "counts.bad-request": (POST.format(path="/deepseek_chat", body="{}", length=2), 400),
    "counts.healthz": (GET.format(path="/auth/healthz"), 200),
}
# Row of budget.toml: a recorded stream.
RECORDED = {
    "counts.transcoder-short": "deepseek.sse",
    "counts.transcoder-long": "llama-cpp-emoji.sse",
}
STREAMED = "counts.event"
ROWS = (*RECORDED, *ASKED, STREAMED)


def total(file):
    """Instructions of a file that callgrind wrote."""
    if not (found := re.search(r"^(?:summary|totals): (\d+)", file.read_text(), re.M)):
        raise Trouble("callgrind wrote no total")
    return int(found[1])


def transcoder(bench, recording):
    """Instructions per event of a recorded stream, handed over event by event."""
    program, file = RELEASE / "transcode", ROOT / "tests" / "upstream" / recording
    counts, events = [], 0
    for times in (TIMES, 2 * TIMES):
        out = bench.folder / f"callgrind.{recording}.{times}"
        command = [need("valgrind"), "--tool=callgrind", f"--callgrind-out-file={out}", program, "--file", file,
                   "--times", str(times)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise Trouble(f"transcode {recording}: {done.stderr.strip()[-200:]}")
        counts.append(total(out))
        events = int(done.stdout)
    return (counts[1] - counts[0]) / TIMES / events


class Counted:
    """The server under callgrind, with one worker."""

    def __init__(self, bench, provider):
        self.bench, self.dumps = bench, 0
        file, self.port = bench.configure(provider, workers=1)
        self.out = bench.folder / "callgrind.server"
        command = [need("valgrind"), "--tool=callgrind", f"--callgrind-out-file={self.out}", RELEASE / "cloudchat",
                   "serve", "--config", file]
        self.process = bench.start(command, stdout=subprocess.DEVNULL)
        wait_until_answers(self.process, self.port, "/test", 60, poll=0.1)

    def dump(self):
        """Instructions since the last call; the server has nothing to do meanwhile."""
        time.sleep(0.2)  # what follows a reply (its log line) is done
        command = ["callgrind_control", "--dump", str(self.process.pid)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        self.dumps += 1
        file = self.out.with_name(f"{self.out.name}.{self.dumps}")
        give_up = time.monotonic() + 20
        while not (file.exists() and re.search(r"^totals: \d+\n", file.read_text(), re.M)):
            if time.monotonic() > give_up:
                raise Trouble(f"callgrind_control wrote nothing: {(done.stdout + done.stderr).strip()[-200:]}")
            time.sleep(0.05)
        return total(file)

    def requests(self, ask, status):
        """Instructions per request of a kind, over one connection."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as sock:
            self.ask(sock, ask, status, WARM_UP)
            self.dump()
            self.ask(sock, ask, status, REQUESTS)
            return self.dump() / REQUESTS

    @staticmethod
    def ask(sock, ask, status, times):
        for _ in range(times):
            sock.sendall(ask.encode())
            data = b""
            while b"\r\n\r\n" not in data:
                if not (more := sock.recv(65536)):
                    raise Trouble("the server closed a keep-alive connection")
                data += more
            head, _, body = data.partition(b"\r\n\r\n")
            if not head.startswith(f"HTTP/1.1 {status} ".encode()):
                raise Trouble(f"{ask.splitlines()[0]}: {head[:40]}")
            length = int(re.search(rb"(?i)content-length: (\d+)", head)[1])
            while len(body) < length:
                body += sock.recv(65536)

    def events(self):
        """Instructions per forwarded event: a long stream less a short one, the middle of seven such pairs. Which
        events come together, and what else falls into that time, differs by a hundredth."""
        self.stream(SHORT)  # warms up
        pairs = [(self.stream(SHORT), self.stream(SHORT + EVENTS)) for _ in range(PAIRS)]
        return statistics.median(long - short for short, long in pairs) / EVENTS

    def stream(self, tokens):
        """Instructions while a stream of so many events is forwarded."""
        self.dump()
        client = self.bench.load(f"http://127.0.0.1:{self.port}/deepseek_chat", streams=1, threads=1,
                                 message=f"sim: tokens={tokens} rate={EVENTS_PER_SECOND}")
        report = self.bench.loaded(client, 60)
        if report["ends"] != {"stop": 1}:
            raise Trouble(f"the stream ended otherwise: {report['ends']}")
        return self.dump()


def measure(bench, names=ROWS):
    """Yields (row of budget.toml, instructions)."""
    for name in names:
        if name in RECORDED:
            yield name, transcoder(bench, RECORDED[name])
    if any(name not in RECORDED for name in names):
        server = Counted(bench, bench.provider()[0])
        for name in names:
            if name in ASKED:
                yield name, server.requests(*ASKED[name])
        if STREAMED in names:
            yield STREAMED, server.events()
        bench.stop(server.process)
