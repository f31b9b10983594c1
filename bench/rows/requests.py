"""The request endpoints beside what answers at least as simply: bare hyper, and Nginx `return 200`."""

import http.client
import json
import os
import pathlib
import statistics
import subprocess
import tempfile

from harness import RELEASE, Trouble, children, free_port, need, wait_until_answers
from target import alternating

RATE = 2000  # requests a second, far from what the slowest can do
PATHS = {"test": "/test", "healthz": "/auth/healthz", "me": "/auth/me"}


def oha(run, bench):
    """Fixed rate and saturation are two questions, asked apart."""
    program = run.oha()
    served = run.target.serve(bench)
    targets = {"ours": served.url, "hello": bench.announced([RELEASE / "hello"])[1], "nginx": static_nginx(bench)}
    # A peer's accounts are not ours to make.
    session = None if run.peer else logged_in(served.url)
    for name, path in PATHS.items():
        with_session = ["-H", f"Cookie: {session}"] if name == "me" else []
        if name == "me" and session is None:
            continue
        words = ["-c", "16", "-q", str(RATE), "--latency-correction", *with_session]
        rounds = measure(program, targets, path, run, words)
        for percentile in ("p50", "p99"):
            yield compared(f"oha.{name}-{percentile}", rounds, percentile, "µs")
        rounds = measure(program, targets, path, run, ["-c", "64", *with_session])
        yield compared(f"oha.{name}-saturated", rounds, "rate", "requests/s")


def logged_in(url):
    """Registers somebody and logs in: the session's cookie."""
    port = int(url.rsplit(":", 1)[1])
    somebody = {"email": "bench@example.org", "password": "correct horse 7"}
    registered, _ = post(port, "/auth/register", somebody)
    answered, headers = post(port, "/auth/login", {"identifier": somebody["email"], "password": somebody["password"]})
    cookies = [value.split(";")[0] for name, value in headers if name.lower() == "set-cookie"]
    session = [cookie for cookie in cookies if cookie.startswith("cc_auth=")]
    if (registered, answered) != (201, 200) or not session:
        raise Trouble(f"no login: {registered}, {answered}")
    return session[0]


def post(port, path, body):
    """A POST with a JSON body: (status, headers)."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.getheaders()
    finally:
        connection.close()


def static_nginx(bench):
    """An Nginx that answers everything by itself: its address."""
    port, prefix = free_port(), pathlib.Path(tempfile.mkdtemp(dir=bench.folder))
    user = "user root;" if os.geteuid() == 0 else ""
    (prefix / "nginx.conf").write_text(
        f"""{user} worker_processes auto; daemon off; pid {prefix}/pid; error_log {prefix}/error.log;
events {{ worker_connections 1024; }}
http {{
  access_log off; client_body_temp_path {prefix}/body; proxy_temp_path {prefix}/proxy;
  fastcgi_temp_path {prefix}/f; uwsgi_temp_path {prefix}/u; scgi_temp_path {prefix}/s;
  server {{ listen 127.0.0.1:{port} reuseport; keepalive_requests 10000000; location / {{ return 200 '{{"ok":true}}'; }} }}
}}
"""
    )
    process = bench.start([need("nginx"), "-p", prefix, "-c", prefix / "nginx.conf"])
    wait_until_answers(process, port, "/", 10)
    bench.alone(port, [process.pid, *children(process.pid)])
    return f"http://127.0.0.1:{port}"


def measure(program, targets, path, run, words):
    return [{name: ask(program, targets[name] + path, run.seconds, words) for name in order}
            for order in alternating(run.rounds, *targets)]


def ask(program, url, seconds, words):
    """One run of oha: p50 and p99 in µs, and answers a second."""
    command = [program, "--no-tui", "--output-format", "json", "-z", f"{seconds}s", *words, url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60, check=False)
    if done.returncode != 0:
        raise Trouble(f"oha: {done.stderr.strip()[-200:]}")
    report = json.loads(done.stdout)
    statuses = report["statusCodeDistribution"]
    if set(statuses) != {"200"}:
        raise Trouble(f"{url}: oha got {statuses}")
    latency = report["latencyPercentiles"]
    return {"p50": latency["p50"] * 1e6, "p99": latency["p99"] * 1e6, "rate": report["summary"]["requestsPerSec"]}


def compared(row, rounds, figure, unit):
    """Against bare hyper; Nginx stands beside it in the detail."""
    middle = {name: statistics.median(one[name][figure] for one in rounds) for name in rounds[0]}
    detail = f"{middle['ours']:,.0f} / {middle['hello']:,.0f} {unit}; Nginx {middle['nginx']:,.0f}"
    return row, [one["ours"][figure] / one["hello"][figure] for one in rounds], detail
