"""Upgrades from the last version, which has another schema, under systemd: whoever had an account or a session then has
it afterwards, also when the upgrade fails at first. And the way back, by the copy that SQLite's files leave."""

import contextlib
import json
import sqlite3

from booted import Machine, replaces
from kit import ask, chat, check, provider, serves, step, until
from provider import MODEL
from servers import Services

CONFIG = "/etc/cloudchat/config.toml"
# As their READMEs have them.
LAST_MIGRATE = "systemd-run -qPG -p EnvironmentFile=/etc/cloudchat/cloudchat.env cloudchat migrate".split()
MIGRATE = ["cloudchat", "migrate"]
RELOAD = ["systemctl", "reload", "cloudchat"]
DATA = "/var/lib/cloudchat"
COPY = f"{DATA}/before-schema-3"
RESTORE = ["runuser", "-u", "cloudchat", "--", "cloudchat", "restore", "--config", CONFIG, "--data-dir", DATA, COPY]


class Person:
    """Somebody with an account, a session from then on, and a conversation in it."""

    def __init__(self, name):
        self.account = {"email": f"{name}@example.org", "password": f"correct horse {name}"}
        status, _, body = ask("POST", "/auth/register", self.account)
        check(status == 201, f"{name} registers: {status} {body}")
        self.cookies = self.logs_in()
        text, self.conversation = chat("How many messages?", self.cookies)
        self.messages = int(text)

    def login(self):
        return ask("POST", "/auth/login", {"identifier": self.account["email"], "password": self.account["password"]})

    def logs_in(self):
        """The cookies of a new session."""
        status, header, body = self.login()
        check(status == 200, f"{self.account['email']} logs in: {status} {body}")
        return "; ".join(line.split(";")[0] for line in header.get_all("Set-Cookie"))

    def goes_on(self):
        """The old session lives, and the model is reminded of the conversation."""
        status, _, body = ask("GET", "/auth/me", cookie=self.cookies)
        check(status == 200 and json.loads(body)["user"]["email"] == self.account["email"], f"/auth/me: {status} {body}")
        text, _ = chat("How many messages?", f"{self.cookies}; {self.conversation}")
        self.messages += 2
        check(text == f"{self.messages} ", f"the model got {text} messages instead of {self.messages}")


def all_well(people):
    serves()
    for person in people:
        person.logs_in()
        person.goes_on()


def begins(machine, last, more=""):
    """The last version serves three people."""
    machine.install(last)
    secrets = f"DEEPSEEK_API_KEY=k\nDEEPSEEK_MODEL={MODEL}\nDEEPSEEK_BASE_URL=http://127.0.0.1:9000/v1\n"
    machine.tree.path("etc/cloudchat/cloudchat.env").write_text(secrets + more)
    if more:
        machine.run(*LAST_MIGRATE)
    machine.run("systemctl", "enable", "--now", "cloudchat")
    serves()
    return [Person(name) for name in ("alice", "bob", "carol")]


def fails(machine, people, why, upgrade):
    """The upgrade does, for this reason: the process that served goes on, and nobody notices."""
    journal = ["journalctl", "--no-pager", "--unit=cloudchat"]
    before = machine.show("MainPID")
    check(why not in machine.run(*journal), f"it has failed before: {why}")
    upgrade()
    until(f"the journal to say: {why}", lambda: why in machine.run(*journal))
    check((machine.show("MainPID"), machine.show("ActiveState")) == (before, "active"), "the process was replaced")
    all_well(people)


def installs_only(machine, deb):
    said = machine.install(deb)
    check("the new version does not serve, the old one goes on" in said, said)


def reload_fails(machine):
    said = machine.run(*RELOAD, code=1)
    check("cloudchat.service failed" in said, said)


def schema(file, *, in_use=True):
    """Of a file of SQLite; of one that no server uses, without making those beside it that readers share."""
    how = "mode=ro" if in_use else "mode=ro&immutable=1"
    with contextlib.closing(sqlite3.connect(f"file:{file}?{how}", uri=True)) as connection:
        return connection.execute("PRAGMA user_version").fetchone()[0]


def test_sqlite(tree, last, new):
    accounts, config, copy = tree.path(f"{DATA}/accounts.db"), tree.path(CONFIG), tree.path(COPY)
    with Machine(tree) as machine, provider("9000"):
        step("the last version serves three people")
        people = begins(machine, last)
        check(schema(accounts) == 2, "its schema is", schema(accounts))

        step("a configuration that does not start: the last version goes on, and its schema stays")
        text = config.read_text()
        config.write_text("nonsense.key = 1\n")
        fails(machine, people, "nonsense", lambda: installs_only(machine, new))
        check(schema(accounts) == 2, "the schema is", schema(accounts))

        step("another store that cannot be had, which is seen when the accounts are open: the same")
        config.write_text('redis.url = "rediss://127.0.0.1:9"\nredis.ca_file = "/nowhere.pem"\n')
        fails(machine, people, "/nowhere.pem", lambda: reload_fails(machine))
        check(schema(accounts) == 2, "the schema is", schema(accounts))
        config.write_text(text)

        step("a schema that cannot be changed, since its copy has no place: the same")
        copy.mkdir()
        (copy / "notes").touch()
        fails(machine, people, "is no backup, and is not replaced", lambda: reload_fails(machine))
        check(schema(accounts) == 2, "the schema is", schema(accounts))
        (copy / "notes").unlink()
        copy.rmdir()

        step("is repaired: another process, no request lost, no answer cut, nobody logged out, and a copy of before")
        replaces(machine, lambda: machine.run(*RELOAD), people[0].cookies)
        check(schema(accounts) == 4, "the schema is", schema(accounts))
        all_well(people)
        is_as_before(tree, copy)
        late = Person("dave")
        # Its configuration is the last version's, which names no data folder.
        said = machine.root("user", "list", "--json")
        check(said.count('"uid"') == 4 and f"store: {DATA}, as its owner cloudchat" in said, said)

        step("the last version installed over it: does not serve on this schema, and the new one goes on")
        fails(machine, [*people, late], "made by a newer cloudchat", lambda: installs_only(machine, last))
        back(machine, people, late)

        step("is upgraded again: the copy of then makes place")
        replaces(machine, lambda: machine.install(new), people[0].logs_in())
        check(schema(accounts) == 4, "the schema is", schema(accounts))
        for person in people:
            person.logs_in()
        is_as_before(tree, copy)


def is_as_before(tree, copy):
    check([path.name for path in copy.iterdir()] == ["accounts.db"], "in the copy:", list(copy.iterdir()))
    check(schema(copy / "accounts.db", in_use=False) == 2, "the copy has another schema")
    check(tree.owner_and_mode(COPY) == ("cloudchat", "cloudchat", 0o700), tree.owner_and_mode(COPY))


def back(machine, people, late):
    step("is stopped: the last version does not start; it does after a restore, and knows whom it knew")
    machine.run("systemctl", "stop", "cloudchat.socket", "cloudchat.service")
    said = machine.run("systemctl", "start", "cloudchat", code=1)
    check("cloudchat.service failed" in said, said)
    machine.run("systemctl", "stop", "cloudchat.socket", "cloudchat.service")
    said = machine.run(*RESTORE)
    check(f"restored from {COPY}" in said and "what was there before is in" in said, said)
    machine.run("systemctl", "start", "cloudchat.socket", "cloudchat.service")
    serves()
    check(schema(machine.tree.path(f"{DATA}/accounts.db")) == 2, "the schema is not the one of before")
    for person in people:
        person.logs_in()
    check(late.login()[0] == 401, "somebody has come later, and is there")


def test_postgres(tree, last, new, programs):
    with contextlib.closing(Services(*programs)) as services:
        services.start(["postgres"])
        services.psql("CREATE DATABASE cloudchat OWNER cloudchat")
        address = f"DATABASE_URL={services.env['CLOUDCHAT_TEST_POSTGRES']}/cloudchat\n"
        with Machine(tree) as machine, provider("9000"):
            step("the last version serves three people")
            people = begins(machine, last, address)

            step("the upgrade installs, but does not serve yet: the last version goes on")
            why = "its schema is 2, this cloudchat needs 4: run `cloudchat migrate`"
            fails(machine, people, why, lambda: installs_only(machine, new))

            step("the schema changes: sessions and chats go on, logins are put off")
            machine.run(*MIGRATE)
            for person in people:
                person.goes_on()
                status, header, body = person.login()
                check(status == 503 and header["Retry-After"], f"a login: {status} {body}")

            step("the new version: another process, no request lost, no answer cut, nobody logged out")
            replaces(machine, lambda: machine.run(*RELOAD), people[0].cookies)
            all_well(people)
            late = Person("dave")

            step("the last version installed over it: does not serve on this schema, and the new one goes on")
            fails(machine, [*people, late], "made by a newer cloudchat", lambda: installs_only(machine, last))
