"""Logins as fast as they are answered, from several clients at once, until they are told to stop.

Each login has an address and an identifier of its own, so that every one costs a hash or is refused
because the hasher's queue is full. A client that gets 503 waits as long as `Retry-After` says, up to
`WAIT_SECONDS_MAX`, and goes on. The clients stand for other machines: they take only what the server and
the streams leave of this one (SCHED_IDLE, sched(7)), which is enough to keep the hasher busy.
"""

import collections
import http.client
import itertools
import json
import os
import threading
import time

# Longer than any login may take: 5 s in the hasher's queue, and the store's time.
ANSWER_SECONDS_MAX = 20
WAIT_SECONDS_MAX = 1


class Storm:
    """`Storm(port, clients)` begins; `stop` ends it and gives the answers by status."""

    def __init__(self, port, clients):
        self.port, self.statuses = port, collections.Counter()
        self.slowest, self.without_retry_after = 0.0, 0
        self.numbers, self.stopped = itertools.count(), threading.Event()
        self.clients = [threading.Thread(target=self.client, daemon=True) for _ in range(clients)]
        for client in self.clients:
            client.start()

    def client(self):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        while not self.stopped.is_set():
            n = next(self.numbers)
            address = f"10.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}"
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=ANSWER_SECONDS_MAX)
            begin = time.monotonic()
            try:
                body = json.dumps({"identifier": f"nobody{n}@example.org", "password": "not the password 1"})
                headers = {"Content-Type": "application/json", "X-Forwarded-For": address}
                connection.request("POST", "/auth/login", body, headers)
                answer = connection.getresponse()
                self.statuses[answer.status] += 1
                self.slowest = max(self.slowest, time.monotonic() - begin)
                if answer.status == 503:
                    self.wait(answer.headers.get("Retry-After"))
            except OSError as error:
                self.statuses[type(error).__name__] += 1
            finally:
                connection.close()

    def wait(self, retry_after):
        if retry_after is None:
            self.without_retry_after += 1
        self.stopped.wait(min(float(retry_after or 0), WAIT_SECONDS_MAX))

    def stop(self):
        self.stopped.set()
        for client in self.clients:
            client.join(ANSWER_SECONDS_MAX + WAIT_SECONDS_MAX)
        return dict(self.statuses)

    def wrong(self):
        """Answers that are neither a refused password nor a 503 that says when to come again."""
        return sum(n for status, n in self.statuses.items() if status not in (401, 503)) + self.without_retry_after
