"""A memory cgroup of one's own, version 1 or 2, without swap and with socket buffers charged."""

import os
import pathlib
import time

from harness import Trouble

V1 = pathlib.Path("/sys/fs/cgroup/memory")
V2 = pathlib.Path("/sys/fs/cgroup")


def create(name, size, parent=None):
    """A fresh group of that many bytes, of whichever version this system has; within another, if one is given."""
    if os.geteuid() != 0:
        raise Trouble("a memory cgroup takes root")
    controllers = V2 / "cgroup.controllers"
    if controllers.exists() and "memory" in controllers.read_text().split():
        return Unified(name, size, parent)
    if (V1 / "memory.limit_in_bytes").exists():
        return Legacy(name, size, parent)
    raise Trouble("no memory controller under /sys/fs/cgroup, neither version 1 nor 2")


class Group:
    """What both versions have in common; `remove` when its processes have ended."""

    def __init__(self, parent, name, size):
        self.size = size
        self.folder = parent / f"cloudchat-{name}-{os.getpid()}"
        self.folder.mkdir()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.remove()

    def read(self, name):
        return (self.folder / name).read_text()

    def number(self, name):
        return int(self.read(name))

    def write(self, name, value):
        try:
            (self.folder / name).write_text(str(value))
        except OSError as error:
            raise Trouble(f"{self.folder / name} does not take {value}: {error}") from None

    def fields(self, name):
        return {key: int(value) for key, value in (line.split() for line in self.read(name).splitlines())}

    def inside(self, command):
        """The command, to be run as a process that has entered the group before it starts."""
        return ["sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', self.folder, *command]

    def remove(self):
        # The kernel needs a moment after the last process.
        for _ in range(50):
            try:
                return self.folder.rmdir()
            except OSError:
                time.sleep(0.1)
        raise Trouble(f"{self.folder} cannot be removed")


class Legacy(Group):
    """Version 1: socket buffers have a counter of their own, which counts once it has a limit."""

    version = 1

    def __init__(self, name, size, parent=None):
        super().__init__(parent.folder if parent else V1, name, size)
        self.write("memory.limit_in_bytes", size)
        self.write("memory.swappiness", 0)
        # Memory and swap together no larger than memory: no swap. Without swap accounting there is none to limit.
        if (self.folder / "memory.memsw.limit_in_bytes").exists():
            self.write("memory.memsw.limit_in_bytes", size)
        self.write("memory.kmem.tcp.limit_in_bytes", size)

    def peak(self):
        """(memory, socket buffers) in bytes, each at its own time; memory includes file pages."""
        return self.number("memory.max_usage_in_bytes"), self.number("memory.kmem.tcp.max_usage_in_bytes")

    def now(self):
        """(what cannot be taken back, anonymous pages of that) in bytes: all but file pages, and socket buffers."""
        stat = self.fields("memory.stat")
        # Shared memory counts as cache, but without swap it has nowhere to go.
        held = self.number("memory.usage_in_bytes") - stat["total_cache"] + stat["total_shmem"]
        return held + self.number("memory.kmem.tcp.usage_in_bytes"), stat["total_rss"]

    def kills(self):
        return self.fields("memory.oom_control")["oom_kill"]

    def refused(self):
        """How often the limit was met: (memory, which then reclaims; socket buffers, which then wait)."""
        return self.number("memory.failcnt"), self.number("memory.kmem.tcp.failcnt")


class Unified(Group):
    """Version 2: one counter for everything, socket buffers included."""

    version = 2

    def __init__(self, name, size, parent=None):
        above = parent.folder if parent else V2
        control = above / "cgroup.subtree_control"
        if "memory" not in control.read_text().split():
            control.write_text("+memory")
        super().__init__(above, name, size)
        self.write("memory.max", size)
        if (self.folder / "memory.swap.max").exists():
            self.write("memory.swap.max", 0)

    def peak(self):
        # memory.peak has come with Linux 5.19; socket buffers are in it.
        if not (self.folder / "memory.peak").exists():
            raise Trouble("memory.peak is missing: Linux 5.19 or later is needed")
        return self.number("memory.peak"), 0

    def now(self):
        stat = self.fields("memory.stat")
        # Shared memory counts as file, but without swap it has nowhere to go.
        return self.number("memory.current") - stat["file"] + stat["shmem"], stat["anon"]

    def kills(self):
        return self.fields("memory.events")["oom_kill"]

    def refused(self):
        return self.fields("memory.events")["max"], 0
