"""What the packages' tests share: commands, servers, requests, a network of their own."""

import contextlib
import ctypes
import fcntl
import http.client
import json
import re
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
TARGET = REPOSITORY / "target"
# The packages' own port: the tests have a network of their own.
PORT = 5000
SECONDS_MAX = 30
# Nothing of the tests' own environment: what a package needs it has to bring.
CLEAN = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}


class Failed(Exception):
    """What does not hold."""


def check(holds, *what):
    """Fails with `what` unless it holds."""
    if not holds:
        raise Failed(" ".join(str(part) for part in what))


def step(text):
    print(f"   {text}", flush=True)


def run(*command, env=None, code=0):
    """Runs a command to its end; returns all that it printed."""
    command = [str(part) for part in command]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          env=CLEAN if env is None else env, timeout=300)
    if code is not None:
        check(done.returncode == code, f"{shlex.join(command)}: code {done.returncode}\n{done.stdout}")
    return done.stdout


def until(what, look):
    """Looks until there is something."""
    end = time.monotonic() + SECONDS_MAX
    while time.monotonic() < end:
        if found := look():
            return found
        time.sleep(0.02)
    raise Failed(f"waited for {what}")


def own_network():
    """From here on there is no network but a loopback, for this process and those it starts."""
    # CLONE_NEWNET, unshare(2).
    if ctypes.CDLL(None, use_errno=True).unshare(0x40000000) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    with socket.socket() as any_socket:
        # SIOCSIFFLAGS with IFF_UP, netdevice(7).
        fcntl.ioctl(any_socket, 0x8914, struct.pack("16sH14x", b"lo", 1))


@contextlib.contextmanager
def started(*command, env=None, ready=None):
    """A process that runs until the end of the block, which ends it with SIGTERM. `ready`: it prints a line."""
    program = shutil.which(str(command[0]), path=CLEAN["PATH"])
    process = subprocess.Popen([str(part) for part in command], executable=program, env=CLEAN if env is None else env,
                               stdin=subprocess.DEVNULL, stdout=subprocess.PIPE if ready else subprocess.DEVNULL,
                               stderr=subprocess.PIPE, text=True)
    try:
        if ready:
            check(process.stdout.readline().strip() == ready, f"{command} is not ready")
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.said = process.communicate(timeout=SECONDS_MAX)[1]
        except subprocess.TimeoutExpired:
            process.kill()
            raise


def provider(*arguments):
    """A simulated provider or name server (provider.py)."""
    return started(sys.executable, REPOSITORY / "tests/packages/provider.py", *arguments, ready="ready")


@contextlib.contextmanager
def serving(*command, env=None):
    """A server of ours at PORT, which has to end well."""
    with started(*command, env=env) as process:
        until("an answer", lambda: process.poll() is not None or answers())
        if process.poll() is not None:
            raise Failed(f"{shlex.join(str(part) for part in command)} ended: {process.stderr.read()}")
        yield process
    check(process.returncode == 0, f"ended with {process.returncode}: {process.said}")


def ask(method, path, body=None, cookie=None):
    """An answer: its status, its header, its whole body."""
    connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=SECONDS_MAX)
    with contextlib.closing(connection):
        headers = {"Cookie": cookie} if cookie else {}
        if body is not None:
            headers["Content-Type"] = "application/json"
        connection.request(method, path, body=None if body is None else json.dumps(body), headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read().decode()


def answers():
    """Whether the server answers."""
    try:
        return ask("GET", "/test")[0] == 200
    except OSError:
        return False


class Chat:
    """An answer that has begun: its first line is there."""

    def __init__(self, message, cookie=None):
        self.connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=SECONDS_MAX)
        headers = {"Content-Type": "application/json", **({"Cookie": cookie} if cookie else {})}
        self.connection.request("POST", "/deepseek_chat", json.dumps({"message": message}), headers)
        self.answer = self.connection.getresponse()
        self.begin = self.answer.readline()
        check(self.answer.status == 200, f"a chat got {self.answer.status}: {self.begin}")

    def end(self):
        """The text of the answer, which has to come to its end, and the cookie of its conversation."""
        with contextlib.closing(self.connection):
            body = self.begin + self.answer.read()
        lines = [json.loads(line) for line in body.splitlines() if line]
        check(lines[-1] == {"done": "stop"}, "the last line is", lines[-1])
        cookie = re.match(r"cc_app=[^;]+", self.answer.headers["Set-Cookie"] or "")
        return "".join(line["text"] for line in lines[:-1]), cookie and cookie[0]


def chat(message, cookie=None):
    """The text of an answer that was streamed to its end, and the cookie of its conversation."""
    return Chat(message, cookie).end()


def serves():
    """The stores answer, and the clock is right."""
    status, _, body = ask("GET", "/auth/healthz")
    check((status, json.loads(body)["db"]) == (200, True), "healthz:", status, body)
    told = json.loads(ask("GET", "/test")[2])["timestamp"]
    check(abs(told - time.time()) < 5, "the server's clock says", told)


def demo_remembers():
    """The simulated model of `cloudchat demo` is asked twice in one conversation."""
    _, cookie = chat("My name is Grace.")
    text, _ = chat("What is my name?", cookie)
    check("Grace" in text, "the demonstration answers:", text)
