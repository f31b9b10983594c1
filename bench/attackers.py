"""What one address does against everybody else, in a process of its own; and how a request is made here.

Each attack is as in tests/api/shares.rs, but goes on for as long as it is wanted: what is refused or closed
comes again, at a bounded rate, because on the same two cores the attacker's own work takes time from the
server that no limit could give back. Each ends by itself after `SECONDS_MAX`.
"""

import asyncio
import collections
import contextlib
import itertools
import json
import multiprocessing
import os
import resource
import time

ATTACKER = "127.0.0.2"
SECONDS_MAX = 60
OPENED_MAX = 300  # connections a second, after the first
FIRST_OPENED_MAX = 1000  # the same, until there are as many as there will be
BODIES, BODY_BYTES = 40, 60_000
WAITING, PROMPT_BYTES = 40, 31_000
CONNECTIONS = 1500
LOGINS_AT_ONCE, CHATS_AT_ONCE = 8, 16
DRIP_SECONDS = 1.5


class Target:
    """Where to ask: the server itself, or Nginx before it; and the cookies of some who have logged in."""

    def __init__(self, port, prefix="", cookies=()):
        self.port, self.prefix, self.cookies = port, prefix, cookies

    def request(self, method, path, body=None, more=""):
        """A request after which the connection ends."""
        content = b"" if body is None else json.dumps(body).encode()
        length = "" if body is None else f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n"
        return f"{method} {self.prefix}{path} HTTP/1.1\r\nHost: chat.test\r\n{more}{length}Connection: close\r\n\r\n".encode() + content

    def chat(self, message, cookie=""):
        return self.request("POST", "/deepseek_chat", {"message": message}, cookie)

    def half_a_body(self):
        return (f"POST {self.prefix}/deepseek_chat HTTP/1.1\r\nHost: chat.test\r\nContent-Type: application/json\r\n"
                "Content-Length: 250000\r\n\r\n").encode()

    def connect(self, address):
        return asyncio.open_connection("127.0.0.1", self.port, local_addr=(address, 0))

    async def ask(self, address, request):
        """(status, headers, all that came) of one request on a connection of its own, read to its end."""
        reader, writer = await self.connect(address)
        try:
            writer.write(request)
            return answer(await reader.read(-1))
        finally:
            writer.close()


def answer(received):
    head = received.partition(b"\r\n\r\n")[0].decode("latin-1")
    return int(head.split(" ")[1]) if head.startswith("HTTP/1.1 ") else None, head, received


class Attack:
    """One attack, and what the attacker got: statuses, ends, and at last what it still held."""

    def __init__(self, target):
        self.target, self.got = target, collections.Counter()
        self.next_open, self.opened, self.first = 0.0, 0, 0

    async def pace(self):
        """Waits for the turn to open another connection."""
        now = time.monotonic()
        self.opened += 1
        self.next_open = max(now, self.next_open) + 1 / (FIRST_OPENED_MAX if self.opened <= self.first else OPENED_MAX)
        await asyncio.sleep(self.next_open - now)

    async def again(self, work):
        """Does it for ever; what ends or fails is counted and begins anew."""
        while True:
            await self.pace()
            try:
                self.got[await work()] += 1
            except (OSError, asyncio.IncompleteReadError) as error:
                self.got[type(error).__name__] += 1
                await asyncio.sleep(0.1)

    async def held(self, first, drip):
        """Sends the beginning of a request, then a bit now and then, until there is an answer or an end: its status."""
        reader, writer = await self.target.connect(ATTACKER)
        try:
            writer.write(first)
            come = asyncio.ensure_future(reader.read(4096))
            while not (await asyncio.wait([come], timeout=DRIP_SECONDS))[0]:
                if drip:
                    writer.write(drip)
            return answer(come.result())[0] or "closed"
        except asyncio.CancelledError:
            self.got["held to the end"] += 1
            raise
        finally:
            come.cancel()
            writer.close()

    def bodies(self):
        first = self.target.half_a_body() + b" " * BODY_BYTES
        return [self.again(lambda: self.held(first, b"")) for _ in range(BODIES)]

    def prompts(self):
        """Of as many accounts: without one an address may have 8 answers at once, and 64 with accounts."""
        message = "x" * PROMPT_BYTES + f" sim: first_ms={SECONDS_MAX * 1000} tokens=1"
        asked = [self.target.chat(message, cookie) for cookie in itertools.islice(itertools.cycle(self.target.cookies), WAITING)]
        return [self.again(lambda request=request: self.held(request, b"")) for request in asked]

    def connections(self):
        """A quarter each: silent; half a head; a slow body; served once, then silent."""
        kinds = [(b"", b""), (b"GET /test HTTP/1.1\r\nHost: x", b"x"), (self.target.half_a_body() + b" " * 500, b" "),
                 (f"GET {self.target.prefix}/test HTTP/1.1\r\nHost: x\r\n\r\n".encode(), b"")]
        return [self.again(lambda kind=kinds[n % 4]: self.kept(*kind)) for n in range(CONNECTIONS)]

    async def kept(self, first, drip):
        """As `held`, but an answer does not end it as long as the connection stays."""
        reader, writer = await self.target.connect(ATTACKER)
        status = "closed"
        try:
            writer.write(first)
            while True:
                come = asyncio.ensure_future(reader.read(4096))
                while not (await asyncio.wait([come], timeout=DRIP_SECONDS))[0]:
                    if drip:
                        writer.write(drip)
                if not come.result():
                    return status
                status = answer(come.result())[0] or status
                if status != 200:
                    drip = b""
        except asyncio.CancelledError:
            self.got["held to the end"] += 1
            raise
        finally:
            come.cancel()
            writer.close()

    def logins(self):
        """Each with an identifier of its own, one after the other on each of a few connections."""
        numbers = itertools.count()

        async def guess():
            who = {"identifier": f"nobody{next(numbers)}@example.org", "password": "wrong horse 7"}
            return (await self.target.ask(ATTACKER, self.target.request("POST", "/auth/login", who)))[0] or "closed"

        return [self.again(guess) for _ in range(LOGINS_AT_ONCE)]

    def chats(self):
        """Without a login and with, in turn."""
        cookies = itertools.cycle(["", *self.target.cookies])

        async def chat():
            asked = self.target.chat("sim: tokens=20 rate=0", next(cookies))
            return (await self.target.ask(ATTACKER, asked))[0] or "closed"

        return [self.again(chat) for _ in range(CHATS_AT_ONCE)]

    async def run(self, name, pipe):
        """Until the pipe says something or ends."""
        stopped = asyncio.Event()
        asyncio.get_running_loop().add_reader(pipe.fileno(), stopped.set)
        tasks = [asyncio.create_task(work) for work in getattr(self, name)()]
        self.first = len(tasks)
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(stopped.wait(), SECONDS_MAX)
        asyncio.get_running_loop().remove_reader(pipe.fileno())
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        self.got.update(repr(result) for result in results if not isinstance(result, asyncio.CancelledError))
        pipe.send(dict(self.got))


def work(name, target, pipe, other):
    other.close()
    os.nice(5)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    asyncio.run(Attack(target).run(name, pipe))


@contextlib.contextmanager
def attack(name, target):
    """The attack goes on within the block; yields what the attacker got, which is filled in at the end."""
    got = collections.Counter()
    ours, theirs = multiprocessing.get_context("fork").Pipe()
    process = multiprocessing.get_context("fork").Process(target=work, args=(name, target, theirs, ours), daemon=True)
    process.start()
    theirs.close()
    try:
        yield got
        if process.is_alive():
            ours.send("stop")
        got.update(ours.recv() if ours.poll(10) else {"the attacker did not end": 1})
    finally:
        ours.close()
        process.join(5)
        if process.is_alive():
            process.kill()
            process.join()
