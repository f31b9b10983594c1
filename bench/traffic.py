"""Mixed traffic at a fixed rate, for the soak: good, broken, slow and hostile clients side by side.

Runs in a thread with an event loop of its own. What comes at which moment is drawn from a seeded
generator, so two runs send the same. Each kind says what it expects; anything else is a surprise.
"""

import asyncio
import collections
import json
import random
import socket
import struct
import threading
import time

HOST = "127.0.0.1"
# A name, a weight; what it does is a coroutine of `Traffic`.
KINDS = {
    "chat": 20,
    "conversation": 6,
    "abort": 10,
    "slow": 2,
    "broken provider": 4,
    "greedy": 4,
    "test": 14,
    "healthz": 6,
    "reset": 6,
    "account": 4,
    "login": 6,
    "bad input": 22,
    "torn": 6,
}
SLOW_SECONDS = 20
ANSWER_SECONDS_MAX = 60
# More often nobody comes back after a 503.
TRIES_MAX = 10


def head(method, path, body=b"", client="203.0.113.1", more=""):
    length = f"Content-Length: {len(body)}\r\nContent-Type: application/json\r\n" if body or method == "POST" else ""
    return f"{method} {path} HTTP/1.1\r\nHost: {HOST}\r\nX-Forwarded-For: {client}\r\n{length}{more}\r\n".encode() + body


def chat(message, client, more=""):
    return head("POST", "/deepseek_chat", b'{"message":"' + message.encode() + b'"}', client, more)


# What is sent, and the statuses that may come back; None is a connection closed without an answer.
BAD = [
    (head("POST", "/deepseek_chat", b"{}"), {400}),
    (head("POST", "/deepseek_chat", b""), {400}),
    (head("POST", "/deepseek_chat", b"[1,2"), {400}),
    (head("POST", "/deepseek_chat", b'{"message":7}'), {400}),
    (head("POST", "/deepseek_chat", b'{"message":"   "}'), {400}),
    (head("POST", "/deepseek_chat", b'{"message":"a\\u0000b"}'), {400}),
    (head("POST", "/deepseek_chat", b'{"message":"\xff\xfe"}'), {400}),
    (head("POST", "/deepseek_chat", b"[" * 5000), {400}),
    (head("POST", "/deepseek_chat", b'{"message":"' + b"x" * 100_000 + b'"}'), {400}),
    (head("POST", "/deepseek_chat", b'{"message":"' + b"x" * 300_000 + b'"}'), {413}),
    (f"POST /deepseek_chat HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\n{{}}".encode(), {400, 415}),
    (head("POST", "/deepseek_chat", b'{"message":"hi"}', more="Origin: https://evil.example\r\n"), {403}),
    (head("POST", "/deepseek_chat", b'{"message":"hi"}', more="Sec-Fetch-Site: cross-site\r\n"), {403}),
    (head("POST", "/reset_chat", b"x" * 2000, more="Cookie: cc_app=" + "A" * 3000 + "\r\n"), {200, 400}),
    (head("GET", "/deepseek_chat"), {405}),
    (head("DELETE", "/test"), {405}),
    (head("BREW", "/test"), {405}),
    (head("OPTIONS", "/test"), {200, 204}),
    (head("HEAD", "/test"), {200}),
    (head("GET", "/../../etc/passwd"), {404}),
    (head("GET", "/" + "a" * 6000), {404}),
    (head("GET", "/" + "a" * 60_000), {414, 431, None}),
    (head("GET", "/auth/nowhere"), {404}),
    (head("GET", "/test", more="".join(f"X-{n}: y\r\n" for n in range(300))), {431, None}),
    (head("GET", "/test", more="X-Request-Id: " + "\t" * 200 + "\r\n"), {200, 400}),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200), {400, None}),
    (b"GET /test HTTP/9.9\r\n\r\n", {400, 505, None}),
    (b"GET /test HTTP/1.1\r\nHost: a\r\nbroken header line\r\n\r\n", {400, None}),
    (b"POST /deepseek_chat HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!", {400, None}),
    (b"POST /deepseek_chat HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n", {400, None}),
    (bytes(range(256)) * 8, {400, None}),
]
# Parts of a request after which the client leaves.
TORN = [b"", b"P", b"POST /deepseek_chat HT", head("POST", "/deepseek_chat", b'{"message":"hi"}')[:-9], head("GET", "/test")[:-2]]
# What the provider does wrong, and how the answer may end.
FAULTS = ["status=500", "status=429", "cut_after=0", "cut_after=5", "tokens=3 bytes=1 first_ms=300"]


class Traffic:
    """`with Traffic(port, rate, seconds)` runs it; `join` waits for its end."""

    def __init__(self, port, rate, seconds, seed):
        self.port, self.rate, self.seconds = port, rate, seconds
        self.random = random.Random(seed)
        self.done, self.statuses, self.surprises = collections.Counter(), collections.Counter(), collections.Counter()
        self.failure = None
        self.running = 0
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.kinds = {
            "chat": self.chat, "conversation": self.conversation, "abort": self.abort, "slow": self.slow,
            "broken provider": self.broken_provider, "greedy": self.greedy, "test": self.test, "healthz": self.healthz,
            "reset": self.reset, "account": self.account, "login": self.login, "bad input": self.bad_input, "torn": self.torn,
        }

    def start(self):
        self.thread.start()
        return self

    def run(self):
        try:
            asyncio.run(self.send())
        except Exception as failure:  # said by `join`'s caller: a thread has nobody to tell
            self.failure = failure

    async def send(self):
        """Each request is due at its own time, whether those before have been answered or not."""
        begin, tasks = time.monotonic(), set()
        for index in range(int(self.rate * self.seconds)):
            await asyncio.sleep(max(0, begin + index / self.rate - time.monotonic()))
            kind = self.random.choices(list(KINDS), KINDS.values())[0]
            task = asyncio.create_task(self.one(kind))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.gather(*tasks)

    async def one(self, kind):
        self.done[kind] += 1
        try:
            await asyncio.wait_for(self.kinds[kind](), ANSWER_SECONDS_MAX)
        except (OSError, asyncio.TimeoutError, asyncio.IncompleteReadError) as error:
            self.surprises[f"{kind}: {type(error).__name__}"] += 1

    def client(self):
        """The address of one of some thousand clients."""
        return f"10.{self.random.randrange(8)}.{self.random.randrange(256)}.{self.random.randrange(1, 255)}"

    async def connect(self, small=False):
        sock = socket.socket()
        sock.setblocking(False)
        if small:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await asyncio.get_running_loop().sock_connect(sock, (HOST, self.port))
        return await asyncio.open_connection(sock=sock, limit=4096 if small else 65536)

    def expect(self, kind, found, allowed):
        self.statuses[found] += 1
        if found not in allowed:
            self.surprises[f"{kind}: {found}"] += 1

    async def status(self, reader):
        """The status and headers; None when the connection was closed without an answer."""
        try:
            text = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        except (asyncio.IncompleteReadError, ConnectionError):
            return None, ""
        return int(text.split(" ")[1]), text

    async def ask(self, request, whole=True):
        """One request on a connection of its own: (status, head, body)."""
        reader, writer = await self.connect()
        try:
            try:
                writer.write(request)
                await writer.drain()
            except ConnectionError:
                pass  # it may have answered before it had read everything
            found, text = await self.status(reader)
            body = b""
            if whole and "chunked" in text.lower():
                while b"\r\n0\r\n\r\n" not in body[-64:] and (more := await self.more(reader)):
                    body += more
            return found, text, body
        finally:
            writer.close()

    @staticmethod
    async def more(reader):
        try:
            return await reader.read(65536)
        except ConnectionError:
            return b""

    async def chat(self):
        sim = f"sim: tokens={self.random.randrange(1, 120)} rate={self.random.choice((0, 20, 50))} bytes={self.random.choice((3, 21, 90))}"
        found, _, body = await self.ask(chat(sim, self.client()))
        self.expect("chat", found, {200})
        if found == 200 and b'"done":"stop"' not in body:
            self.surprises["chat: no last line"] += 1

    async def conversation(self):
        client, cookie = self.client(), ""
        for _ in range(3):
            found, text, _ = await self.ask(chat("sim: tokens=30 rate=0 bytes=21", client, cookie))
            self.expect("conversation", found, {200})
            for line in text.split("\r\n"):
                if line.lower().startswith("set-cookie: "):
                    cookie = f"Cookie: {line[12:].split(';')[0]}\r\n"
        found, _, _ = await self.ask(head("POST", "/reset_chat", b"", client, cookie))
        self.expect("conversation's end", found, {200})

    async def abort(self):
        """Leaves at a random phase, politely or with a reset."""
        reader, writer = await self.connect()
        writer.write(chat(f"sim: tokens=100 rate=30 first_ms={self.random.choice((0, 500))}", self.client()))
        await asyncio.sleep(self.random.choice((0, 0.0005, 0.002, 0.01, 0.1, 0.7, 2)))
        if self.random.random() < 0.5:
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.close()

    async def slow(self):
        reader, writer = await self.connect(small=True)
        writer.write(chat("sim: tokens=3000 rate=0 bytes=21", self.client()))
        self.expect("slow", (await self.status(reader))[0], {200})
        end = time.monotonic() + SLOW_SECONDS
        while time.monotonic() < end and await reader.read(1000):
            await asyncio.sleep(1)
        writer.close()

    async def broken_provider(self):
        found, _, _ = await self.ask(chat(f"sim: {self.random.choice(FAULTS)}", self.client()))
        self.expect("broken provider", found, {200, 429, 502, 503, 504})

    async def greedy(self):
        """One client asks more than it may."""
        found, _, _ = await self.ask(chat("sim: tokens=2 rate=0", "198.51.100.7"))
        self.expect("greedy", found, {200, 429})

    async def test(self):
        """A few requests on one connection."""
        reader, writer = await self.connect()
        for _ in range(5):
            writer.write(head("GET", "/test"))
            found, text = await self.status(reader)
            self.expect("test", found, {200})
            length = [line for line in text.lower().split("\r\n") if line.startswith("content-length: ")]
            await reader.readexactly(int(length[0].split()[1]) if length else 0)
        writer.close()

    async def healthz(self):
        self.expect("healthz", (await self.ask(head("GET", "/auth/healthz")))[0], {200})

    async def reset(self):
        self.expect("reset", (await self.ask(head("POST", "/reset_chat", b"", self.client())))[0], {200})

    async def account(self):
        """Somebody registers, logs in, asks, mistypes, and leaves for good."""
        client, number = self.client(), self.random.getrandbits(64)
        email, password, cookie = f"ada{number:x}@example.org", "correct horse 7", ""
        made = {"email": email, "password": password, "display_name": "Ada"}
        for method, path, body, expected in (
            ("POST", "/auth/register", made, 201),
            ("POST", "/auth/login", {"identifier": email, "password": password}, 200),
            ("GET", "/auth/me", None, 200),
            ("POST", "/deepseek_chat", {"message": "sim: tokens=10 rate=0"}, 200),
            ("PATCH", "/auth/me", {"display_name": "Ada L."}, 200),
            ("GET", "/auth/me/export", None, 200),
            ("DELETE", "/auth/me", {"password": "battery staple 8"}, 401),
            ("DELETE", "/auth/me", {"password": password}, 200),
            ("GET", "/auth/me", None, 401),
        ):
            content = b"" if body is None else json.dumps(body).encode()
            request = head(method, path, content, client, cookie)
            found, text, _ = await self.ask(request)
            for _ in range(TRIES_MAX):
                if found != 503 or "retry-after" not in text.lower():
                    break
                # The hasher's queue is full, as on a machine that has other things to do.
                await asyncio.sleep(1)
                found, text, _ = await self.ask(request)
            self.expect(f"account: {method} {path}", found, {expected})
            cookies = [line[12:].split(";")[0] for line in text.split("\r\n") if line.lower().startswith("set-cookie: cc_auth=")]
            if cookies and path == "/auth/login":
                cookie = f"Cookie: {cookies[0]}\r\n"

    async def login(self):
        """Somebody guesses. The hasher's queue may be full."""
        body = json.dumps({"identifier": f"nobody{self.random.getrandbits(64):x}@example.org", "password": "correct horse 7"})
        self.expect("login", (await self.ask(head("POST", "/auth/login", body.encode(), self.client())))[0], {401, 503})

    async def bad_input(self):
        index = self.random.randrange(len(BAD))
        request, allowed = BAD[index]
        self.expect(f"bad input {index}", (await self.ask(request, whole=False))[0], allowed)

    async def torn(self):
        _, writer = await self.connect()
        writer.write(self.random.choice(TORN))
        await asyncio.sleep(self.random.choice((0, 0.01, 1)))
        writer.close()
