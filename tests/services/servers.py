"""The servers that the tests run against: private instances in a temporary folder, on loopback only.

Each server belongs to this process: the kernel ends it when this process dies, however that happens.
"""

import contextlib
import ctypes
import os
import pwd
import random
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

# From asking a server to start to its first right answer.
START_SECONDS_MAX = 30
# Below the ports that the kernel hands out by itself, above those that tests/api/kit takes.
PORTS = range(30_100, 32_700)
PR_SET_PDEATHSIG = 1
# The configurations that CloudChat ships; only addresses, paths and what so many tests need are replaced.
SHIPPED = Path(__file__).resolve().parents[2] / "systemd"


class Failed(Exception):
    """A server did not start or did not do what it was told."""


class Server:
    """One process that can be killed, stopped, continued and started again on its data."""

    def __init__(self, name, user, folder, port, command, answers, death_signal=signal.SIGKILL, group=None):
        self.name, self.user, self.folder, self.port = name, user, folder, port
        self.command, self.answers, self.death_signal = command, answers, death_signal
        # Folder of the control group that its processes belong to, if any.
        self.group = group
        self.child = None

    def spawn(self):
        ids, signal_at_death = self.user, self.death_signal
        libc = ctypes.CDLL(None, use_errno=True)

        def become():
            if self.group:
                (self.group / "cgroup.procs").write_text(str(os.getpid()))
            if os.getuid() == 0:
                os.setgroups([])
                os.setgid(ids.pw_gid)
                os.setuid(ids.pw_uid)
            libc.prctl(PR_SET_PDEATHSIG, int(signal_at_death))

        with open(self.log(), "a") as log:
            self.child = subprocess.Popen(self.command, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                          start_new_session=True, preexec_fn=become, env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"})

    def log(self):
        return self.folder.with_suffix(".log")

    def wait_until_ready(self):
        end = time.monotonic() + START_SECONDS_MAX
        while not self.answers(self):
            if self.child.poll() is not None:
                raise Failed(f"{self.name} ended with {self.child.returncode}:\n{self.last_lines()}")
            if time.monotonic() > end:
                raise Failed(f"{self.name} does not answer after {START_SECONDS_MAX} s:\n{self.last_lines()}")
            time.sleep(0.02)

    def last_lines(self):
        return "\n".join(self.log().read_text(errors="replace").splitlines()[-20:])

    def start(self):
        self.spawn()
        self.wait_until_ready()

    def processes(self):
        """Its process and all below it, parents first."""
        parents = {}
        for path in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                fields = path.read_text().rpartition(")")[2].split()
                parents[int(path.parent.name)] = int(fields[1])
        found = [self.child.pid]
        for pid in found:
            found += [child for child, parent in parents.items() if parent == pid]
        return found

    def signal_all(self, number):
        """Signals every process, also those that were made meanwhile."""
        reached = set()
        while missed := [pid for pid in self.processes() if pid not in reached]:
            for pid in missed:
                reached.add(pid)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)

    def kill(self):
        """Ends it the hard way and waits until all of its processes are gone."""
        if self.child is None or self.child.poll() is not None:
            return
        # First the parent, so that it starts no new ones: stopped children die of SIGKILL too.
        pids = self.processes()
        self.signal_all(signal.SIGKILL)
        self.child.wait()
        end = time.monotonic() + START_SECONDS_MAX
        while any(is_alive(pid) for pid in pids):
            if time.monotonic() > end:
                raise Failed(f"processes of {self.name} do not end: {pids}")
            time.sleep(0.01)


def is_alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def free_ports(count):
    """Ports that nobody listens on now."""
    found = []
    for port in random.sample(PORTS, len(PORTS)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                found.append(port)
        if len(found) == count:
            return found
    raise Failed(f"fewer than {count} of the ports {PORTS.start} to {PORTS.stop} are free")


class Services:
    """A temporary folder, the servers in it, and the environment variables that tell where they are."""

    def __init__(self, postgres_folder, pgbouncer, pgbouncer_old, groups=None):
        """With control groups, by the names of the servers in them, these are set up for one real host:
        nothing of the shipped configurations is replaced but addresses and paths."""
        self.groups, self.is_host = groups or {}, groups is not None
        self.postgres_folder, self.pgbouncer, self.pgbouncer_old = postgres_folder, pgbouncer, pgbouncer_old
        self.folder = Path(tempfile.mkdtemp(prefix="cloudchat-services-"))
        self.folder.chmod(0o755)
        # Letters and digits only, as it stands in URLs and in files of several grammars.
        self.password = secrets.token_hex(16)
        self.servers, self.env = {}, {}

    def close(self):
        for server in self.servers.values():
            server.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def server(self, name, user, make, **more):
        """A server with a folder of its own; `make(folder, port)` writes its files and returns its command line."""
        folder, (port,) = self.folder / name, free_ports(1)
        folder.mkdir()
        ids = pwd.getpwuid(os.getuid()) if os.getuid() else pwd.getpwnam(user)
        command = make(folder, port)
        folder.chmod(0o700)
        for path in [folder, *folder.iterdir()]:
            shutil.chown(path, ids.pw_uid, ids.pw_gid)
        self.servers[name] = Server(name, ids, folder, port, command, group=self.groups.get(name), **more)
        return self.servers[name]

    def psql(self, statements, database="postgres"):
        url = f"postgres://postgres:{self.password}@127.0.0.1:{self.servers['postgres'].port}/{database}"
        done = subprocess.run([self.postgres_folder / "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", url, "-c", statements],
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=START_SECONDS_MAX)
        if done.returncode != 0:
            raise Failed(done.stderr)

    def redis_cli(self, port, *command):
        done = subprocess.run(["redis-cli", "-h", "127.0.0.1", "-p", str(port), "--no-auth-warning", *command], timeout=START_SECONDS_MAX,
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, env={**os.environ, "REDISCLI_AUTH": self.password})
        return done.stdout.strip() if done.returncode == 0 else f"error: {done.stdout}{done.stderr}"

    def start(self, names):
        """Starts these, at the same time where one does not need the other, and waits for all."""
        for name in names:
            if name.startswith("pgbouncer") and "postgres" not in self.servers:
                self.start_postgres()
            STARTS[name](self)
        self.env["CLOUDCHAT_TEST_PSQL"] = str(self.postgres_folder / "psql")

    # PostgreSQL

    def start_postgres(self):
        if "postgres" in self.servers:
            return

        def make(folder, port):
            settings = {"listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": ""}
            if not self.is_host:
                settings |= {
                    "max_connections": 1000,
                    # Only a crash of the machine loses anything by this, a killed server nothing.
                    "fsync": "off", "full_page_writes": "off", "autovacuum": "off",
                    # A database is told to log its statements; then the line says which connection ran them.
                    "log_line_prefix": "%m %d %p ", "log_min_messages": "warning",
                }
            options = [text for name, value in settings.items() for text in ("-c", f"{name}={value}")]
            return [str(self.postgres_folder / "postgres"), "-D", str(folder / "data"), *options]

        server = self.server("postgres", "postgres", make, answers=self.postgres_answers, death_signal=signal.SIGQUIT)
        password = self.folder / "password"
        password.write_text(self.password)
        password.chmod(0o600)
        shutil.chown(password, server.user.pw_uid)
        initdb = Server("initdb", server.user, server.folder, None, [
            str(self.postgres_folder / "initdb"), "-D", str(server.folder / "data"), "-U", "postgres", "-A", "scram-sha-256",
            "--pwfile", str(password), "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"], answers=None)
        initdb.spawn()
        if initdb.child.wait(timeout=START_SECONDS_MAX) != 0:
            raise Failed(f"initdb failed:\n{initdb.last_lines()}")
        with open(server.folder / "data/postgresql.conf", "a") as settings:
            settings.write((SHIPPED / "postgresql/cloudchat.conf").read_text())
        password.unlink()
        server.start()
        self.psql(f"CREATE ROLE cloudchat LOGIN CREATEDB PASSWORD '{self.password}'")
        self.env["CLOUDCHAT_TEST_POSTGRES"] = f"postgres://cloudchat:{self.password}@127.0.0.1:{server.port}"
        self.env["CLOUDCHAT_TEST_POSTGRES_ADMIN"] = f"postgres://postgres:{self.password}@127.0.0.1:{server.port}"
        self.env["CLOUDCHAT_TEST_POSTGRES_LOG"] = str(server.log())

    def postgres_answers(self, server):
        done = subprocess.run([self.postgres_folder / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(server.port)], timeout=START_SECONDS_MAX)
        return done.returncode == 0

    def start_pgbouncer(self, name, binary, statements="", mode="transaction"):
        def make(folder, port):
            text = (SHIPPED / "pgbouncer/pgbouncer.ini").read_text()
            database, postgres = "cloudchat = host=127.0.0.1 port=5432 dbname=cloudchat", self.servers["postgres"].port
            replacements = [(r"listen_port = 6432", f"listen_port = {port}"), (r"auth_file = \S+", f"auth_file = {folder}/users"),
                            (r"max_prepared_statements = 200", statements), (r"pool_mode = transaction", f"pool_mode = {mode}")]
            if self.is_host:
                replacements += [(database, database.replace("5432", str(postgres)))]
            else:
                # Many databases, and so few connections to each that many clients have to take turns.
                replacements += [(database, f"* = host=127.0.0.1 port={postgres}"), (r"max_client_conn = 100", "max_client_conn = 4000"),
                                 # bench/run counts queries.
                                 (r"unix_socket_dir =", "unix_socket_dir =\nstats_users = cloudchat"),
                                 (r"default_pool_size = 8", "default_pool_size = 5"), (r"reserve_pool_size = 4", "reserve_pool_size = 0")]
            for line, ours in replacements:
                text, count = re.subn(rf"^{line}$", ours, text, flags=re.M)
                if count != 1:
                    raise Failed(f"the shipped pgbouncer.ini does not say {line!r} once")
            (folder / "pgbouncer.ini").write_text(text)
            (folder / "users").write_text(f'"cloudchat" "{self.password}"\n')
            return [*binary, str(folder / "pgbouncer.ini")]

        server = self.server(name, "postgres", make, answers=accepts)
        server.start()
        variable = "CLOUDCHAT_TEST_" + name.upper().replace("-", "_")
        self.env[variable] = f"postgres://cloudchat:{self.password}@127.0.0.1:{server.port}"

    # Redis

    def redis(self, name, *settings):
        def make(folder, port):
            shipped = (SHIPPED / "redis/cloudchat.conf").read_text().splitlines()
            more = [] if self.is_host else ["maxclients 10000"]
            lines = [*shipped, *more, f"port {port}", f"dir {folder}", f"requirepass {self.password}", f"masterauth {self.password}",
                     *[line.format(bus=free_ports(1)[0]) for line in settings]]
            (folder / "redis.conf").write_text("\n".join(lines) + "\n")
            return ["redis-server", str(folder / "redis.conf")]

        return self.server(name, "redis", make, answers=lambda server: self.redis_cli(server.port, "ping") == "PONG")

    def start_redis(self):
        server = self.redis("redis")
        server.start()
        self.env["CLOUDCHAT_TEST_REDIS"] = f"redis://:{self.password}@127.0.0.1:{server.port}"

    def start_cluster(self, replicas=0):
        nodes = [self.redis(f"cluster-{n}", "cluster-enabled yes", "cluster-port {bus}", "cluster-node-timeout 2000", "cluster-replica-validity-factor 0")
                 for n in range(1, 4 + 3 * replicas)]
        for node in nodes:
            node.spawn()
        for node in nodes:
            node.wait_until_ready()
        addresses = [f"127.0.0.1:{node.port}" for node in nodes]
        made = self.redis_cli(nodes[0].port, "--cluster", "create", *addresses, "--cluster-replicas", str(replicas), "--cluster-yes")
        if "[OK] All 16384 slots covered" not in made:
            raise Failed(f"the cluster could not be made: {made}")
        self.wait_for("the cluster", lambda: all(self.is_cluster_whole(node, len(nodes), replicas) for node in nodes))
        self.env["CLOUDCHAT_TEST_REDIS_CLUSTER"] = f"redis-cluster://:{self.password}@{','.join(addresses)}"

    def is_cluster_whole(self, node, size, replicas):
        if "cluster_state:ok" not in self.redis_cli(node.port, "cluster", "info"):
            return False
        known = self.redis_cli(node.port, "cluster", "nodes").splitlines()
        linked = "master_link_status:down" not in self.redis_cli(node.port, "info", "replication")
        return len(known) == size and sum("slave" in line for line in known) == 3 * replicas and linked

    def start_sentinel(self):
        master = self.redis("sentinel-master")
        master.start()
        replica = self.redis("sentinel-replica", f"replicaof 127.0.0.1 {master.port}")
        replica.start()

        def make(folder, port):
            lines = ["bind 127.0.0.1", f"port {port}", f"dir {folder}", f"requirepass {self.password}",
                     f"sentinel monitor main 127.0.0.1 {master.port} 2", f"sentinel auth-pass main {self.password}",
                     f"sentinel sentinel-pass {self.password}",
                     "sentinel down-after-milliseconds main 1000", "sentinel failover-timeout main 5000"]
            (folder / "redis.conf").write_text("\n".join(lines) + "\n")
            return ["redis-server", str(folder / "redis.conf"), "--sentinel"]

        sentinels = [self.server(f"sentinel-{n}", "redis", make, answers=lambda server: self.redis_cli(server.port, "ping") == "PONG")
                     for n in range(1, 4)]
        for sentinel in sentinels:
            sentinel.start()
        for sentinel in sentinels:
            self.wait_for("the sentinels", lambda: self.redis_cli(sentinel.port, "sentinel", "ckquorum", "main").startswith("OK 3")
                          and "master_link_status:up" in self.redis_cli(replica.port, "info", "replication")
                          and f"{replica.port}" in self.redis_cli(sentinel.port, "sentinel", "replicas", "main"))
        addresses = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in sentinels)
        self.env["CLOUDCHAT_TEST_REDIS_SENTINEL"] = f"redis-sentinel://:{self.password}@{addresses}/0?service=main"

    def wait_for(self, what, holds):
        end = time.monotonic() + START_SECONDS_MAX
        while not holds():
            if time.monotonic() > end:
                raise Failed(f"{what} did not come together within {START_SECONDS_MAX} s, see {self.folder}")
            time.sleep(0.05)


def accepts(server):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", server.port), timeout=1):
        return True
    return False


KEEPS_STATEMENTS = "max_prepared_statements = 200"
# What can be asked for. `pgbouncer-zero` is a new one with the feature switched off, as Ubuntu has it; two
# more have a pool mode that CloudChat is not made for.
STARTS = {
    "postgres": Services.start_postgres,
    "pgbouncer": lambda services: services.start_pgbouncer("pgbouncer", services.pgbouncer, KEEPS_STATEMENTS),
    "pgbouncer-old": lambda services: services.start_pgbouncer("pgbouncer-old", services.pgbouncer_old),
    "pgbouncer-zero": lambda services: services.start_pgbouncer("pgbouncer-zero", services.pgbouncer, "max_prepared_statements = 0"),
    "pgbouncer-session": lambda services: services.start_pgbouncer("pgbouncer-session", services.pgbouncer, KEEPS_STATEMENTS, "session"),
    "pgbouncer-statement": lambda services: services.start_pgbouncer("pgbouncer-statement", services.pgbouncer, KEEPS_STATEMENTS, "statement"),
    "redis": Services.start_redis,
    "cluster": Services.start_cluster,
    "cluster-with-replicas": lambda services: services.start_cluster(replicas=1),
    "sentinel": Services.start_sentinel,
}
# What a run of the tests needs; replicas are started by the one test that kills a node.
DEFAULT = ["postgres", "pgbouncer", "pgbouncer-old", "pgbouncer-zero", "redis", "cluster", "sentinel"]
