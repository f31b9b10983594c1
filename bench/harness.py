"""What the measuring scripts share: start and end processes, read what the kernel knows of them.

Only Python's standard library. Every process is started on a free port, watched, and ended by its
PID; `Bench` is a context manager that leaves nothing behind. `bench/run` shows how it is used.
"""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
RELEASE = ROOT / "target" / "release"
MIB = 1 << 20


class Trouble(Exception):
    """A measurement that could not be made; the message says why."""


def need(program, package=None):
    """Path of a program, installed from the distribution's package if it is missing."""
    package = package or program
    if found := shutil.which(program):
        return found
    if os.geteuid() != 0:
        raise Trouble(f"{program} is missing: apt-get install {package}")
    # Without this a freshly installed Nginx would run as a service and take port 80.
    policy = pathlib.Path("/usr/sbin/policy-rc.d")
    ours = not policy.exists()
    if ours:
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
    try:
        install = ["apt-get", "install", "-qqy", "--no-install-recommends", package]
        done = subprocess.run(install, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    finally:
        if ours:
            policy.unlink()
    if found := shutil.which(program):
        return found
    raise Trouble(f"apt-get install {package} failed: {done.stderr.strip()[-200:]}")


def build():
    """Release builds of the server and of the measuring programs."""
    for package in ("cloudchat", "bench"):
        subprocess.run(["cargo", "build", "--release", "--locked", "-p", package], cwd=ROOT, check=True)


def save(name, text):
    """Writes a result beside printing it."""
    results = ROOT / "bench" / "results"
    results.mkdir(exist_ok=True)
    (results / name).write_text(text)
    print(text)


def table(heads, rows):
    """A Markdown table."""
    lines = ["| " + " | ".join(str(cell) for cell in row) + " |" for row in (heads, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(heads), *lines[1:]]) + "\n"


def free_port():
    """A port of loopback on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def listeners(port):
    """Inodes of the sockets that listen on a port, as IPv4 and IPv6."""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in pathlib.Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and int(fields[1].rsplit(":", 1)[1], 16) == port:
                inodes.add(fields[9])
    return inodes


def connections_to(port):
    """Number of established connections from this machine to a port."""
    lines = pathlib.Path("/proc/net/tcp").read_text().splitlines()[1:]
    ends = [(line.split()[2], line.split()[3]) for line in lines]
    return sum(state == "01" and int(remote.rsplit(":", 1)[1], 16) == port for remote, state in ends)


def sockets_of(pids):
    """Inodes of the sockets that processes hold."""
    inodes = set()
    for pid in pids:
        for fd in pathlib.Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                target = os.readlink(fd)
                if target.startswith("socket:["):
                    inodes.add(target[8:-1])
    return inodes


def children(pid):
    """PIDs of a process's children."""
    text = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(word) for word in text.split()]


def pss(pid):
    """Proportional set size in bytes."""
    for line in pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise Trouble(f"no Pss of {pid}")


def memory_status(pid):
    """What /proc/PID/status says in kB and counts: VmHWM and VmRSS in bytes, Threads as a number."""
    fields = dict(line.split(":", 1) for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines())
    size = {name: int(fields[name].split()[0]) * 1024 for name in ("VmHWM", "VmRSS")}
    return {**size, "Threads": int(fields["Threads"])}


def open_files(pid):
    """Number of open file descriptors."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def mappings(pid):
    """Bytes by mapping: {name: {field: bytes}}, with Pss, Private_Dirty and what else smaps counts in kB.

    Mappings without a file are named after what they are; those of one file are added up.
    """
    found, fields = {}, None
    for line in pathlib.Path(f"/proc/{pid}/smaps").read_text().splitlines():
        words = line.split()
        if not words[0].endswith(":"):
            access, name = words[1], " ".join(words[5:]) or "anonymous"
            if name == "anonymous" and access.startswith("---"):
                name = "reserved, no access"
            fields = found.setdefault(name, {})
        elif words[-1] == "kB":
            key = words[0][:-1]
            fields[key] = fields.get(key, 0) + int(words[1]) * 1024
    return found


def cpu_ns(pids):
    """CPU time of all threads of processes, user and system, in nanoseconds.

    The scheduler's own sum (schedstat): what utime + stime round to ticks of 10 ms.
    """
    total = 0
    for pid in pids:
        for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
            total += int((task / "schedstat").read_text().split()[0])
    return total


def request(port, path, timeout=2):
    """One GET on a connection of its own: (status, head, body)."""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout) as sock:
        ask = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n"
        sock.sendall(ask.encode())
        data = b"".join(iter(lambda: sock.recv(65536), b""))
    head, _, body = data.partition(b"\r\n\r\n")
    return int(head.split(b" ")[1]), head.decode("latin-1"), body


def keep_alive_requests(port, path, count):
    """`count` GETs, one after the other, over one connection."""
    ask = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=30) as sock:
        for _ in range(count):
            sock.sendall(ask.encode())
            data = b""
            while b"\r\n\r\n" not in data:
                if not (more := sock.recv(65536)):
                    raise Trouble("the server closed a keep-alive connection")
                data += more
            head, _, body = data.partition(b"\r\n\r\n")
            fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
            while len(body) < int(fields[b"content-length"]):
                body += sock.recv(65536)
            if not head.startswith(b"HTTP/1.1 200"):
                raise Trouble(f"{path}: {head[:40]}")


def wait_until_answers(process, port, path, seconds, poll=0.0005):
    """Polls until a 200 comes; fails when the process ends or the time is up."""
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up:
        if process.poll() is not None:
            raise Trouble(f"{process.args[0]} ended with {process.returncode}")
        try:
            if request(port, path, timeout=seconds)[0] == 200:
                return
        except (ConnectionError, TimeoutError, IndexError):
            pass
        time.sleep(poll)
    raise Trouble(f"no 200 from {path} within {seconds} s")


class Bench:
    """A temporary folder and the processes started from it."""

    def __enter__(self):
        # Ended from outside, the processes are ended as well.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="cloudchat-bench-"))
        self.running = []
        return self

    def __exit__(self, *_):
        for process in reversed(self.running[:]):
            self.stop(process)
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self, command, **options):
        """Starts a program; its stderr goes to a file in the folder unless told otherwise."""
        command = [str(word) for word in command]
        if "stderr" not in options:
            name = f"{len(list(self.folder.iterdir()))}-{pathlib.Path(command[0]).name}.log"
            options["stderr"] = open(self.folder / name, "wb")
        process = subprocess.Popen(command, **options)
        self.running.append(process)
        return process

    def stop(self, process, seconds=40):
        """Ends a process by its PID and waits for it."""
        self.running.remove(process)
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(seconds)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe:
                pipe.close()

    def announced(self, command):
        """Starts a program that prints its address; returns (process, address)."""
        process = self.start(command, stdout=subprocess.PIPE, text=True)
        address = process.stdout.readline().strip()
        if not address:
            raise Trouble(f"{command[0]} did not start")
        return process, address

    def provider(self, tls=False):
        """The provider simulator: (base URL, certificate file or None)."""
        authority = self.folder / "authority.pem" if tls else None
        words = ["--tls", "--ca-file", authority] if tls else []
        _, address = self.announced([RELEASE / "provider", *words])
        return address + "/v1", authority

    def configure(self, provider_url, authority=None, workers=0, memory="64M", stores=""):
        """Writes a configuration on a free port: (file, port)."""
        port, data = free_port(), pathlib.Path(tempfile.mkdtemp(dir=self.folder))
        file = data / "config.toml"
        file.write_text(
            f"""[server]
listen = ["127.0.0.1:{port}"]
workers = {workers}
data_dir = "{data}"
drain_seconds = 1
[limits]
memory = "{memory}"
[chat]
rate_per_minute = 0
streams_per_client_max = 100000
[upstream]
ca_file = "{authority or ''}"
[[provider]]
name = "sim"
base_url = "{provider_url}"
model = "deepseek-flash"
key_env = ""
{stores}"""
        )
        return file, port

    def server(self, provider_url, authority=None, **options):
        """The server under test, answering: (process, port)."""
        stderr = options.pop("stderr", None)
        file, port = self.configure(provider_url, authority, **options)
        extra = {"stderr": stderr} if stderr is not None else {}
        process = self.start([RELEASE / "cloudchat", "serve", "--config", file], **extra)
        wait_until_answers(process, port, "/test", 10)
        self.alone(port, [process.pid])
        return process, port

    def alone(self, port, pids):
        """Fails when somebody else listens on the port too and would take part of the traffic."""
        if strangers := listeners(port) - sockets_of(pids):
            raise Trouble(f"port {port} is shared with {len(strangers)} foreign listeners")

    def nginx(self, provider_url, workers):
        """A private Nginx that passes everything to the provider unbuffered: (process, port)."""
        port, prefix = free_port(), pathlib.Path(tempfile.mkdtemp(dir=self.folder))
        user = "user root;" if os.geteuid() == 0 else ""
        upstream = provider_url.removeprefix("http://").split("/")[0]
        (prefix / "nginx.conf").write_text(
            f"""{user} worker_processes {workers}; daemon off; pid {prefix}/pid; error_log {prefix}/error.log;
events {{ worker_connections 16384; }}
http {{
  access_log off; client_body_temp_path {prefix}/body; proxy_temp_path {prefix}/proxy;
  fastcgi_temp_path {prefix}/f; uwsgi_temp_path {prefix}/u; scgi_temp_path {prefix}/s;
  upstream provider {{ server {upstream}; keepalive 64; }}
  server {{
    listen 127.0.0.1:{port} reuseport;
    location / {{
      proxy_pass http://provider; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_buffering off; proxy_read_timeout 3600;
    }}
  }}
}}
"""
        )
        program = need("nginx")
        process = self.start([program, "-p", prefix, "-c", prefix / "nginx.conf"])
        wait_until_answers(process, port, "/v1/models", 10)
        self.alone(port, [process.pid, *children(process.pid)])
        return process, port

    def streams(self, url, **options):
        """Opens streams and keeps them: (process, number that is ready). See `report`."""
        words = []
        for name, value in options.items():
            words += [f"--{name.replace('_', '-')}"] + ([] if value is True else [value])
        command = [RELEASE / "streams", "--url", url, "--hold-until-line", *words]
        process = self.start(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        line = process.stdout.readline()
        if not line:
            raise Trouble("the stream client ended before its streams were ready")
        return process, json.loads(line)["ready"]

    def load(self, url, **options):
        """Opens streams that run to their end: the process. See `loaded`."""
        words = []
        for name, value in options.items():
            words += [f"--{name.replace('_', '-')}"] + ([] if value is True else [value])
        return self.start([RELEASE / "streams", "--url", url, *words], stdout=subprocess.PIPE, text=True)

    def loaded(self, process, seconds):
        """Waits for the end of `load`; what the client has counted."""
        try:
            out, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            raise Trouble(f"the stream client did not end within {seconds} s") from None
        self.running.remove(process)
        if process.returncode != 0:
            raise Trouble(f"the stream client ended with {process.returncode}")
        return json.loads(out)

    def report(self, process):
        """Ends the streams; what the client has counted."""
        process.stdin.write("\n")
        process.stdin.flush()
        line = process.stdout.readline()
        self.stop(process)
        return json.loads(line)
