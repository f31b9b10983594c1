"""The .deb in a Debian that runs: systemd is the first process of namespaces of its own, in its tree."""

import subprocess
import threading

from debian import ADVICE
from kit import CLEAN, SECONDS_MAX, Chat, answers, ask, chat, check, provider, run, serves, step, until
from provider import MODEL

# No device, no file system, no process of the machine but what a container has.
SCRIPT = """
set -e
tree=$1
mount --bind "$tree" "$tree"
cd "$tree"
mount -t proc proc proc
mount --bind proc/sys proc/sys
mount -o remount,ro,bind proc/sys
mount -t tmpfs -o mode=755 tmpfs dev
for device in null zero full random urandom tty; do
  touch "dev/$device"
  mount --bind "/dev/$device" "dev/$device"
done
mkdir dev/shm dev/pts
mount -t tmpfs -o mode=1777 tmpfs dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts dev/pts
ln -s pts/ptmx dev/ptmx
mount --rbind /sys sys
options=
case $2 in
v1)
  # In a container systemd takes its own arguments for those of the kernel.
  options="systemd.unified_cgroup_hierarchy=0 systemd.legacy_systemd_cgroup_controller=1"
  mount -t tmpfs -o mode=755 tmpfs sys/fs/cgroup
  mkdir sys/fs/cgroup/systemd
  mount -t cgroup -o none,name=systemd cgroup sys/fs/cgroup/systemd ;;
v2) mount -t cgroup2 cgroup2 sys/fs/cgroup ;;
esac
# Another cgroup namespace sees its own part of the tree only in a mount of its own.
[ -n "$2" ] || [ ! -e sys/fs/cgroup/cgroup.controllers ] || mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
pivot_root . mnt
umount -l mnt
exec env -i container=test PATH="$PATH" /lib/systemd/systemd --system --unit=basic.target --show-status=false $options
"""


class Machine:
    """A systemd that runs; everything in it ends with it. `cgroup`: `v1` or `v2`, instead of what the machine has."""

    def __init__(self, tree, cgroup=""):
        self.tree, self.cgroup = tree, cgroup

    def __enter__(self):
        self.unshare = subprocess.Popen(
            ["unshare", "-p", "-m", "-f", "-u", "-i", "-C", "sh", "-c", SCRIPT, "sh", self.tree.root, self.cgroup],
            env=CLEAN, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            children = f"/proc/{self.unshare.pid}/task/{self.unshare.pid}/children"
            self.systemd = until("the namespaces", lambda: open(children).read().split())[0]
            until("systemd", lambda: self.run("systemctl", "is-active", "basic.target", code=None) == "active\n")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, failure=None, *_):
        if failure and hasattr(self, "systemd"):
            print(self.run("journalctl", "--no-pager", "--lines=30", code=None))
        # The first process of a process namespace takes all others along.
        if systemd := getattr(self, "systemd", None):
            run("kill", "-KILL", systemd, code=None)
        self.unshare.kill()
        self.unshare.wait(SECONDS_MAX)

    def run(self, *command, code=0):
        return run("nsenter", "-t", self.systemd, "-p", "-m", "-u", "-i", "-C", *command, code=code)

    def root(self, *arguments, line="", code=0):
        """Runs cloudchat as somebody would who has logged in as root; `line` is typed."""
        words = ["env", "HOME=/root", "sh", "-c", 'printf "%s\\n" "$0" | cloudchat "$@"', line, *arguments]
        return self.run(*words, code=code)

    def install(self, deb):
        """By dpkg; the tree's /tmp is the machine's own."""
        place = self.tree.path("root/cloudchat.deb")
        place.write_bytes(deb.read_bytes())
        return self.run("dpkg", "--install", "/root/cloudchat.deb")

    def show(self, name):
        return self.run("systemctl", "show", "cloudchat.service", "--value", "-p", name).strip()

    def is_enabled(self):
        """`enabled` or `disabled`, for service and socket."""
        return self.run("systemctl", "is-enabled", "cloudchat.service", "cloudchat.socket", code=None).split()


class Busy:
    """Asks without a pause until the end of the block; nothing may fail."""

    def __enter__(self):
        self.failures, self.count, self.ends = [], 0, False
        self.thread = threading.Thread(target=self.ask)
        self.thread.start()
        return self

    def ask(self):
        while not self.ends:
            try:
                status = ask("GET", "/test")[0]
            except OSError as error:
                status = error
            self.count += 1
            if status != 200:
                self.failures.append(status)

    def __exit__(self, *_):
        self.ends = True
        self.thread.join(SECONDS_MAX)


def test(tree, old, new):
    secrets = f"DEEPSEEK_API_KEY=k\nDEEPSEEK_MODEL={MODEL}\nDEEPSEEK_BASE_URL=http://127.0.0.1:9000/v1\n"
    with Machine(tree) as machine, provider("9000"):
        step("systemd runs: it installs, and starts nothing")
        check(ADVICE in machine.install(old), "it does not say what to do next")
        check((machine.show("ActiveState"), machine.is_enabled()) == ("inactive", ["disabled"] * 2), "it runs, or will")
        tree.path("etc/cloudchat/cloudchat.env").write_text(secrets)
        machine.run("systemctl", "enable", "--now", "cloudchat")
        serves()
        check(machine.is_enabled() == ["enabled"] * 2, machine.is_enabled())
        commands(machine)
        variables(machine, secrets)
        upgrade(machine, new)
        broken(machine, old)

        step("is removed: it ends")
        machine.run("dpkg", "--remove", "cloudchat")
        check(not answers(), "it still serves")
        machine.run("dpkg", "--purge", "cloudchat")
        check(not tree.enabled(), "still enabled:", tree.enabled())

        step("finds a configuration on a first install: it serves at once, and after the next start")
        tree.path("etc/cloudchat").mkdir()
        tree.path("etc/cloudchat/cloudchat.env").write_text(secrets)
        machine.install(old)
        serves()
        check(chat("Hi")[0] == "0 1 2 ", "the answer")
        check(machine.is_enabled() == ["enabled"] * 2, machine.is_enabled())
        machine.run("dpkg", "--purge", "cloudchat")
        check(not answers(), "it still serves")


def commands(machine):
    step("commands of root work on the server's store, with its user's rights; whoever may not read it is told so")
    tree, data, config = machine.tree, "/var/lib/cloudchat", ["--config", "/etc/cloudchat/config.toml"]
    place = f"store: {data}, as its owner cloudchat"
    password = "correct horse alice"
    for name, more in [("alice", []), ("bob", config)]:
        said = machine.root("user", "create", f"{name}@example.org", *more, line=password)
        check(place in said and "create: " in said, said)
    check(login("alice", password) == 200, "whoever root has made cannot log in")
    said = machine.root("check")
    check(f"data folder  {data}\n" in said and "deepseek at http://127.0.0.1:9000/v1" in said, said)
    said = machine.root("doctor", code=None)
    check(f"store: {data}\n" in said and "provider" not in said, said)
    backups = "/var/backups/cloudchat"
    check(place in machine.root("backup", f"{backups}/monday"), "the backup's store")
    machine.root("user", "delete", "bob@example.org", "--yes")
    for user, file in [("cloudchat", "cloudchat.env"), ("nobody", "config.toml")]:
        said = machine.run("runuser", "-u", user, "--", "cloudchat", "user", "list", code=2)
        check(f"{file}: cannot be read: " in said and "run this as root" in said, said)

    step("root restores: with and without what it keeps to itself")
    machine.run("cp", "-r", f"{backups}/monday", "/root/monday")
    machine.run("chown", "-R", "root:root", "/root/monday")
    for backup in (f"{backups}/monday", "/root/monday"):
        said = machine.root("restore", backup, code=1)
        check("a server uses it; stop it first" in said, said)
        machine.run("systemctl", "stop", "cloudchat.socket", "cloudchat.service")
        # What was there before is kept under a name that has seconds.
        done = lambda: (said := machine.root("restore", backup, code=None)) and "restored from" in said and said
        check(place in until("the restore", done), "the store of the restore")
        machine.run("systemctl", "start", "cloudchat.socket", "cloudchat.service")
        serves()
        check(login("bob", password) == 200, "the backup has bob")
        machine.root("user", "delete", "bob@example.org", "--yes")
    for path in tree.path(data).rglob("*"):
        owner = tree.owner_and_mode(str(path.relative_to(tree.root)))[:2]
        check(owner == ("cloudchat", "cloudchat"), path, owner)
    left = [name for name in ("root/.local", "root/data", "data") if tree.path(name).exists()]
    check(not left, "other stores were made:", left)


def login(name, password):
    return ask("POST", "/auth/login", {"identifier": f"{name}@example.org", "password": password})[0]


# What stands behind `DEEPSEEK_MODEL=`, up to the end of the file.
VALUES = ["a", " a b \t", "a#b ;c", "'a b'", '"a b"c', "a'b'", "a\\\n b", r"a\ ", r'"a\$b\"c\d"', "'a\\'", "$HOME", "a\\\\b",
          "a\r\nDEEPSEEK_MODEL=b", "x\n# c\\\nDEEPSEEK_MODEL=b", "x\n DEEPSEEK_MODEL = b\n", "x\nexport DEEPSEEK_MODEL=b", '"a']


def variables(machine, secrets):
    step("an environment file means to commands what it means to systemd")
    file = machine.tree.path("etc/cloudchat/cloudchat.env")
    version = int(machine.run("systemctl", "--version").split()[1])
    for value in VALUES:
        # Before, such a comment went on in the next line.
        if "# c\\" in value and version < 254:
            continue
        file.write_text(f"DEEPSEEK_API_KEY=k\nDEEPSEEK_MODEL={value}")
        read = machine.root("check", code=None)
        given = machine.run("systemd-run", "-qPG", "-p", "EnvironmentFile=/etc/cloudchat/cloudchat.env",
                            "-E", "STATE_DIRECTORY=/nowhere", "cloudchat", "check", code=None)
        of_model = [[line for line in said.splitlines() if "deepseek" in line.lower()] for said in (read, given)]
        check(of_model[0] and of_model[0] == of_model[1], repr(value), of_model)
    file.write_text(secrets)


def upgrade(machine, new):
    step("upgrades while it serves: another process, no request lost, no answer cut")
    replaces(machine, lambda: machine.install(new))
    check((machine.show("ActiveState"), machine.show("NRestarts")) == ("active", "0"), "it was restarted")
    serves()


def replaces(machine, change, cookie=None):
    """Has another process serve, while requests and an answer, to whose cookie that is, are under way."""
    before, ended = machine.show("MainPID"), []
    with Busy() as busy:
        slow = Chat("Count slowly", cookie)
        answer = threading.Thread(target=lambda: ended.append(slow.end()[0]))
        answer.start()
        change()
        check(machine.show("MainPID") not in (before, "0"), "the old process goes on")
        check(answer.is_alive(), "the answer ended before the upgrade did")
        answer.join(SECONDS_MAX)
    check(not busy.failures, f"{len(busy.failures)} of {busy.count} requests failed:", busy.failures[:3])
    check(ended and ended[0].endswith("29 "), "the answer was cut:", ended)


def broken(machine, deb):
    step("a version that does not serve: the old process goes on, dpkg does not fail, and it is said")
    before, file = machine.show("MainPID"), machine.tree.path("etc/cloudchat/config.toml")
    text = file.read_text()
    file.write_text("nonsense.key = 1\n")
    said = machine.install(deb)
    check("the old one goes on" in said, said)
    check(machine.show("MainPID") == before, "it was replaced")
    serves()
    file.write_text(text)
