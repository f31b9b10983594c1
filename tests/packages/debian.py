"""The .deb in a small Debian: installed, served from, upgraded, removed, purged, while no systemd runs."""

import os
import shutil
import stat
from pathlib import Path

from kit import CLEAN, chat, check, demo_remembers, provider, run, serves, serving, step
from provider import MODEL

UNITS = ["cloudchat.socket", "cloudchat.service", "cloudchat-backup.timer", "cloudchat-health.timer"]
ADVICE = "systemctl enable --now cloudchat"
# What there is beside the program.
SHIPPED = """
usr/bin/cloudchat
usr/lib/systemd/system/cloudchat.service
usr/lib/systemd/system/cloudchat.socket
usr/lib/systemd/system/cloudchat-backup.service
usr/lib/systemd/system/cloudchat-backup.timer
usr/lib/systemd/system/cloudchat-health.service
usr/lib/systemd/system/cloudchat-health.timer
usr/lib/sysusers.d/cloudchat.conf
usr/lib/tmpfiles.d/cloudchat.conf
usr/share/man/man1/cloudchat.1.gz
usr/share/man/man1/cloudchat-serve.1.gz
usr/share/man/man1/cloudchat-user-create.1.gz
usr/share/bash-completion/completions/cloudchat
usr/share/zsh/vendor-completions/_cloudchat
usr/share/fish/vendor_completions.d/cloudchat.fish
usr/share/doc/cloudchat/copyright
usr/share/doc/cloudchat/third-party-licenses.gz
usr/share/doc/cloudchat/changelog.gz
usr/share/doc/cloudchat/examples/config.toml
usr/share/doc/cloudchat/examples/nginx/cloudchat.conf
usr/share/doc/cloudchat/examples/postgresql@.service.d/cloudchat.conf
""".split()


class Tree:
    """A Debian below a folder."""

    def __init__(self, root):
        self.root = Path(root)

    def run(self, *command, env=None, code=0):
        return run("chroot", self.root, *command, env=env, code=code)

    def path(self, name):
        return self.root / name.lstrip("/")

    def text(self, name):
        return self.path(name).read_text()

    def install(self, deb):
        """By dpkg, as apt does it in the end; returns what is said."""
        shutil.copy(deb, self.path("tmp/cloudchat.deb"))
        return self.run("dpkg", "--install", "/tmp/cloudchat.deb")

    def version(self):
        return self.run("dpkg-query", "--show", "--showformat", "${Version}", "cloudchat")

    def enabled(self):
        """Links to units of ours."""
        folder = self.path("etc/systemd/system")
        return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.name in UNITS}

    def files(self):
        """All paths, but for the records of dpkg and what every installation of anything changes."""
        changing = ("var/lib/dpkg", "var/log", "var/cache", "tmp", "run", "proc", "dev", "sys")
        found = set()
        for folder, folders, files in os.walk(self.root):
            at = os.path.relpath(folder, self.root)
            folders[:] = [name for name in folders if os.path.normpath(f"{at}/{name}") not in changing]
            found |= {os.path.normpath(f"{at}/{name}") for name in folders + files}
        return found

    def owner_and_mode(self, name):
        found = self.path(name).stat()
        users = dict(line.split(":")[2::-2] for line in self.text("etc/passwd").splitlines())
        groups = dict(line.split(":")[2::-2] for line in self.text("etc/group").splitlines())
        return users[str(found.st_uid)], groups[str(found.st_gid)], stat.S_IMODE(found.st_mode)

    def processes(self):
        """Of programs of this Debian."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if os.readlink(folder / "exe").startswith(f"{self.root}/"):
                    found.append(folder.name)
            except OSError:
                continue
        return found


def test(tree, old, new):
    before = tree.files()
    step("installs: a user, folders, a configuration; nothing runs, nothing is enabled")
    said = tree.install(old)
    check(ADVICE in said, "it does not say what to do next:", said)
    installed(tree)
    check((tree.enabled(), tree.processes()) == (set(), []), "enabled or running:", tree.enabled(), tree.processes())

    step("has man pages without a warning, and completions that the shell takes")
    for page in sorted(tree.path("usr/share/man/man1").glob("cloudchat*.1.gz")):
        warnings = run("sh", "-c", f"man --warnings --encoding=utf8 --local-file {page} 2>&1 >/dev/null")
        check(not warnings, f"{page.name}: {warnings}")
    said = tree.run("bash", "-ec", ". /usr/share/bash-completion/completions/cloudchat; complete -p cloudchat")
    check("_cloudchat" in said, said)

    step("serves, once it is configured, as its own user")
    configuration = 'server.listen = ["127.0.0.1:5000"]\nchat.history_max = 5\n'
    tree.path("etc/cloudchat/config.toml").write_text(configuration)
    secrets = f"DEEPSEEK_API_KEY=k\nDEEPSEEK_MODEL={MODEL}\nDEEPSEEK_BASE_URL=http://127.0.0.1:9000/v1\n"
    tree.path("etc/cloudchat/cloudchat.env").write_text(secrets)
    env = {**CLEAN, **dict(line.split("=", 1) for line in secrets.split()), "STATE_DIRECTORY": "/var/lib/cloudchat"}
    user = ["chroot", "--userspec=cloudchat:cloudchat", tree.root, "/usr/bin/cloudchat"]
    config = ["--config", "/etc/cloudchat/config.toml"]
    with provider("9000"), serving(*user, "serve", *config, env=env):
        serves()
        check(chat("Hi")[0] == "0 1 2 ", "the answer")
        run(*user, "backup", *config, "/var/backups/cloudchat/kept", env=env)
    with serving(*user, "demo", "--data-dir", "/var/lib/cloudchat/demo"):
        demo_remembers()

    step("upgrades: what was changed stays, what was deleted is not made again, what is enabled stays so")
    tree.run("systemctl", "enable", "cloudchat")
    links = tree.enabled()
    check({"multi-user.target.wants/cloudchat.service", "sockets.target.wants/cloudchat.socket"} == links, links)
    tree.install(new)
    check(tree.version() == "99.0.0", tree.version())
    unchanged(tree, configuration, secrets)
    tree.path("etc/cloudchat/config.toml").unlink()
    tree.install(old)
    check(not tree.path("etc/cloudchat/config.toml").exists(), "it came back")
    tree.path("etc/cloudchat/config.toml").write_text(configuration)
    check(tree.enabled() == links, tree.enabled())

    step("is removed: configuration and data stay, and serve again")
    tree.run("dpkg", "--remove", "cloudchat")
    check(not tree.path("usr/bin/cloudchat").exists(), "the program is still there")
    unchanged(tree, configuration, secrets)
    tree.install(new)
    unchanged(tree, configuration, secrets)
    check(tree.path("var/lib/cloudchat/accounts.db").exists(), "the data is gone")

    step("is purged: all but the backups is gone")
    said = tree.run("dpkg", "--purge", "cloudchat")
    check("/var/backups/cloudchat stay" in said, said)
    check(tree.path("var/backups/cloudchat/kept/accounts.db").exists(), "the backup is gone")
    shutil.rmtree(tree.path("var/backups/cloudchat"))
    nothing_left(tree, before)


def installed(tree):
    missing = [name for name in SHIPPED if not tree.path(name).exists()]
    check(not missing, "missing:", missing)
    expected = {
        "etc/cloudchat": ("root", "cloudchat", 0o750),
        "etc/cloudchat/config.toml": ("root", "cloudchat", 0o640),
        "etc/cloudchat/cloudchat.env": ("root", "root", 0o600),
        "var/backups/cloudchat": ("cloudchat", "cloudchat", 0o700),
        "var/lib/cloudchat": ("cloudchat", "cloudchat", 0o700),
    }
    for name, (owner, group, mode) in expected.items():
        found = tree.owner_and_mode(name)
        check(found == (owner, group, mode), name, found)
    user = [line for line in tree.text("etc/passwd").splitlines() if line.startswith("cloudchat:")]
    check(len(user) == 1 and user[0].endswith(":/var/lib/cloudchat:/usr/sbin/nologin"), user)
    for config in ([], ["--config", "/etc/cloudchat/config.toml"]):
        said = tree.run("cloudchat", "check", *config)
        check("is valid" in said and "data folder  /var/lib/cloudchat (no accounts yet" in said, said)
        said = tree.run("cloudchat", "user", "list", *config, code=2)
        check("/var/lib/cloudchat: no accounts here" in said, said)


def unchanged(tree, configuration, secrets):
    for name, text in [("config.toml", configuration), ("cloudchat.env", secrets)]:
        check(tree.text(f"etc/cloudchat/{name}") == text, f"{name} has changed")


def nothing_left(tree, before):
    """But the user; `-` files are copies that its making leaves."""
    left = {path for path in tree.files() - before if not path.endswith("-")}
    check(not left, "left behind:", sorted(left))
    check(not before - tree.files(), "taken along:", sorted(before - tree.files()))


def test_without_systemd(tree, deb):
    """In a container, say: the folders and the user are made all the same."""
    step("installs and is purged where there is no systemd")
    tree.run("dpkg", "--purge", "--force-depends", "systemd")
    before = tree.files()
    check(not tree.path("usr/bin/systemd-sysusers").exists(), "systemd is still there")
    tree.install(deb)
    installed(tree)
    tree.run("dpkg", "--purge", "cloudchat")
    nothing_left(tree, before)
