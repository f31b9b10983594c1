"""The server on PostgreSQL, behind PgBouncer, and Redis: memory, `/auth/me` beside the minimal server that asks
the same, and how often each store is asked."""

import csv
import statistics
import subprocess
import time

from harness import MIB, RELEASE, ROOT, Trouble, need, pss
from rows.requests import RATE, ask, logged_in
from target import alternating

SETTLE_SECONDS = 12  # the hasher gives its memory back after 5 s, the allocator after 10
REQUESTS = 200


def stores(run, bench):
    servers = started(bench)
    accounts, sessions = made(servers)
    # The default with PostgreSQL, whose accounts may have hashes of the old service, of 64 MiB each.
    served = run.target.serve(bench, memory="128M", stores=f'[database]\nurl = "{accounts}"\n[redis]\nurl = "{sessions}"\n')
    session = logged_in(served.url)
    time.sleep(SETTLE_SECONDS)
    yield "stores.idle", [pss(served.pids[0]) / MIB], "both connected on every core"
    trips = {name: count(servers, served.url + path, session) for name, path in (("me", "/auth/me"), ("healthz", "/auth/healthz"))}
    for name, (redis, postgres) in trips.items():
        yield f"stores.{name}-redis", [redis], "INFO stats: total_reads_processed"
        yield f"stores.{name}-postgres", [postgres], "PgBouncer's SHOW TOTALS: query_count"
    _, minimal = bench.announced([RELEASE / "me", "--redis", sessions, "--database", accounts])
    targets = {"ours": served.url, "minimal": minimal}
    program = run.oha()
    with_session = ["-H", f"Cookie: {session}"]
    rounds = {}
    for name, path in (("me", "/auth/me"), ("healthz", "/auth/healthz")):
        words = ["-c", "16", "-q", str(RATE), "--latency-correction", *with_session]
        fixed = measure(program, targets, path, run, words)
        for percentile in ("p50", "p99"):
            yield compared(f"stores.{name}-{percentile}", fixed, percentile, "µs")
        rounds[name] = measure(program, targets, path, run, ["-c", "64", *with_session])
        yield compared(f"stores.{name}-saturated", rounds[name], "rate", "requests/s")
    time.sleep(SETTLE_SECONDS)
    yield "stores.loaded", [pss(served.pids[0]) / MIB], "after all of this, connected"


def started(bench):
    """PostgreSQL, PgBouncer and Redis of our own: their addresses by the ends of their names."""
    command = [ROOT / "tests" / "services" / "run", "--only", "postgres,pgbouncer,redis", "--serve"]
    process = bench.start(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    addresses = {}
    for line in process.stdout:
        name, equals, value = line.strip().partition("=")
        if equals:
            addresses[name.removeprefix("CLOUDCHAT_TEST_")] = value
        elif name == "ready":
            return addresses
    raise Trouble("the stores did not start, see above")


def made(servers):
    """A database with our tables: its URL through PgBouncer, and that of Redis."""
    sql = ["-XqAt", "-v", "ON_ERROR_STOP=1", "-d", f"{servers['POSTGRES']}/postgres", "-c", "CREATE DATABASE bench"]
    subprocess.run([servers["PSQL"], *sql], check=True, timeout=30)
    migrate = [RELEASE / "cloudchat", "migrate"]
    subprocess.run(migrate, env={"DATABASE_URL": f"{servers['POSTGRES']}/bench"}, check=True, timeout=60, stdout=subprocess.DEVNULL)
    return f"{servers['PGBOUNCER']}/bench", servers["REDIS"]


def asked(servers):
    """How often Redis has read a socket, and PgBouncer passed a query on."""
    password, _, host = servers["REDIS"].removeprefix("redis://:").partition("@")
    name, _, port = host.partition(":")
    command = [need("redis-cli", "redis-tools"), "-h", name, "-p", port, "INFO", "stats"]
    stats = subprocess.run(command, env={"REDISCLI_AUTH": password}, capture_output=True, text=True, check=True, timeout=10).stdout
    redis = int(next(line for line in stats.splitlines() if line.startswith("total_reads_processed:")).split(":")[1])
    # Queries that PostgreSQL has logged as executed would do too; PgBouncer counts them by itself.
    command = [servers["PSQL"], "-XqA", "--csv", "-d", f"{servers['PGBOUNCER']}/pgbouncer", "-c", "SHOW STATS_TOTALS"]
    totals = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout
    postgres = sum(int(row["query_count"]) for row in csv.DictReader(totals.splitlines()) if row["database"] == "bench")
    return redis, postgres


def count(servers, url, session):
    """Round trips to Redis and to PostgreSQL for each request."""
    idle = [asked(servers), asked(servers)]
    own = idle[1][0] - idle[0][0]
    before = asked(servers)
    subprocess.run(["curl", "-sf", "-o", "/dev/null", "-H", f"Cookie: {session}", f"{url}?[1-{REQUESTS}]"], check=True, timeout=60)
    after = asked(servers)
    # The sender of mails asks PostgreSQL once a second.
    return (after[0] - before[0] - own) / REQUESTS, round((after[1] - before[1]) / REQUESTS, 1)


def measure(program, targets, path, run, words):
    return [{name: ask(program, targets[name] + path, run.seconds, words) for name in order}
            for order in alternating(run.rounds, *targets)]


def compared(row, rounds, figure, unit):
    middle = {name: statistics.median(one[name][figure] for one in rounds) for name in rounds[0]}
    detail = f"{middle['ours']:,.0f} / {middle['minimal']:,.0f} {unit}"
    return row, [one["ours"][figure] / one["minimal"][figure] for one in rounds], detail
