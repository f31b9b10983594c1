"""The old service at work while something else happens to its database: registrations and logins at fixed
rates, and one transaction that stays open.

Prints `started` once all of it runs. At the end one line of JSON: {"registrations": n, "logins": n, "failed": n,
"failures": [texts of the first 5], "longest_ms": …, "longest": "login", "held_ok": true}; the longest is that of
a registration or a login, never of the transaction that is held.
"""

import itertools
import json
import secrets
import sys
import threading
import time

from sqlalchemy import select

from operations import Credential, Refused, User, text

USERS = 50
PASSWORD = "load password 1"
SECONDS_MAX = 120
FAILURES_SHOWN = 5
# Threads of each kind: so many may wait for the database at the same time.
THREADS = 8


class Load:
    def __init__(self, service):
        self.service = service
        # Another load on the same database must not meet this one's users.
        self.name = secrets.token_hex(4)
        self.lock = threading.Lock()
        self.over, self.asked_to_stop, self.held_open = threading.Event(), threading.Event(), threading.Event()
        self.done = {"registration": 0, "login": 0}
        self.failures, self.longest, self.held_ok = [], (0, None), None

    def email(self, kind, n):
        return f"load-{self.name}-{kind}-{n}@example.org"

    def registration(self, n):
        self.service.register(self.email("new", n), PASSWORD)

    def login(self, n):
        self.service.login(self.email("known", n % USERS), PASSWORD)

    def work(self, kind, rate, numbers):
        """One of the threads that share these numbers: operation n is due at n / rate seconds."""
        begin = time.monotonic()
        while True:
            with self.lock:
                n = next(numbers)
            if self.over.wait(max(0, begin + n / rate - time.monotonic())):
                return
            start = time.monotonic()
            error = None
            try:
                getattr(self, kind)(n)
            except Exception as caught:
                error = text(caught)
            milliseconds = 1000 * (time.monotonic() - start)
            with self.lock:
                self.done[kind] += error is None
                self.longest = max(self.longest, (milliseconds, kind))
                if error:
                    self.failures.append(f"{kind}: {error}")

    def hold(self, seconds):
        """A registration that has read both tables and written, and is committed only after these seconds."""
        email = self.email("held", 0)

        def wait(session, user_id):
            credential = select(Credential).where(Credential.user_id == user_id)
            session.flush()
            if session.scalar(credential) is None:
                raise Refused("its own row is not there")
            self.held_open.set()
            time.sleep(seconds)

        try:
            user_id = self.service.register(email, PASSWORD, before_commit=wait)["user_id"]
            with self.service.new_session() as session:
                found = session.scalar(select(User).where(User.email == email))
                self.held_ok = found is not None and found.id == user_id
            self.service.login(email, PASSWORD)
        except Exception as error:
            self.held_ok = False
            with self.lock:
                self.failures.append(f"held: {text(error)}")
        self.held_open.set()

    def listen(self):
        for line in sys.stdin:
            if line.strip() == "stop":
                break
        self.asked_to_stop.set()


def run(service, options):
    load = Load(service)
    for n in range(USERS):
        service.register(load.email("known", n), PASSWORD)
    # Not waited for at the end: nothing may come on standard input any more.
    threading.Thread(target=load.listen, daemon=True).start()
    held = threading.Thread(target=load.hold, args=[options.hold])
    held.start()
    load.held_open.wait()
    threads = []
    for kind, rate in [("registration", options.registrations), ("login", options.logins)]:
        numbers = itertools.count()
        threads += [threading.Thread(target=load.work, args=[kind, rate, numbers]) for _ in range(THREADS if rate > 0 else 0)]
    begin = time.monotonic()
    for thread in threads:
        thread.start()
    print("started", flush=True)
    load.over.wait(min(options.seconds, SECONDS_MAX))
    load.asked_to_stop.wait(max(0, begin + SECONDS_MAX - time.monotonic()))
    held.join()
    load.over.set()
    for thread in threads:
        thread.join()
    milliseconds, kind = load.longest
    print(json.dumps({
        "registrations": load.done["registration"], "logins": load.done["login"],
        "failed": len(load.failures), "failures": load.failures[:FAILURES_SHOWN],
        "longest_ms": round(milliseconds, 1), "longest": kind, "held_ok": load.held_ok,
    }))
