"""What ends a service after a reload, while an answer is under way, in the process before or in the new one: the answer
comes to its end, and the service ends well. With either kind of cgroups, by which systemd waits for processes besides
the main one."""

import threading

from booted import Machine
from kit import SECONDS_MAX, Chat, answers, check, provider, serves, step, until
from provider import MODEL

RELOAD = ["systemctl", "reload", "cloudchat"]


class Answer:
    """Six seconds long; it has to come to its end within the block."""

    def __enter__(self):
        self.chat, self.texts = Chat("Count very slowly"), []
        self.thread = threading.Thread(target=lambda: self.texts.append(self.chat.end()[0]))
        self.thread.start()
        return self

    def runs(self):
        return self.thread.is_alive()

    def __exit__(self, failure=None, *_):
        self.thread.join(SECONDS_MAX)
        check(failure or (self.texts and self.texts[0].endswith("29 ")), "the answer was cut:", self.texts)


def reloads(machine):
    before = machine.show("MainPID")
    machine.run(*RELOAD)
    check(machine.show("MainPID") != before, "nothing was replaced")
    return before


def waits(machine, answer, *command):
    machine.run(*command)
    check(not answer.runs(), f"{command} did not wait for the answer")


def reload_and(machine, *command):
    """Runs it while an answer is in the process that was replaced; it takes as long as that."""
    with Answer() as answer:
        reloads(machine)
        check(answer.runs(), "the reload waited for the answer")
        waits(machine, answer, *command)


def reload_ask_and(machine, *command):
    """Runs it when the process before has ended, and the new one has an answer."""
    before = reloads(machine)
    until("the process before to end", lambda: before not in machine.run("ls", "/proc").split())
    with Answer() as answer:
        waits(machine, answer, *command)


def no_complaint(machine):
    """Of systemd's, about how our processes stand to it, or end."""
    said = machine.run("journalctl", "--no-pager", "--unit=cloudchat")
    for complaint in ("not our child", "Killing process", "Failed with result", "a second signal"):
        check(complaint not in said, f"the journal says: {complaint}\n{said}")


def test(tree, cgroup, old, new):
    secrets = f"DEEPSEEK_API_KEY=k\nDEEPSEEK_MODEL={MODEL}\nDEEPSEEK_BASE_URL=http://127.0.0.1:9000/v1\n"
    with Machine(tree, cgroup) as machine, provider("9000"):
        machine.install(old)
        tree.path("etc/cloudchat/cloudchat.env").write_text(secrets)
        machine.run("systemctl", "enable", "--now", "cloudchat")
        serves()

        for where, end in (("process before", reload_and), ("new process", reload_ask_and)):
            step(f"is stopped, with an answer in the {where}")
            end(machine, "systemctl", "stop", "cloudchat.socket", "cloudchat.service")
            said = machine.show("ActiveState"), machine.show("Result")
            check(said == ("inactive", "success"), said)
            machine.run("systemctl", "start", "cloudchat.socket", "cloudchat.service")
            serves()

            step(f"is restarted, with an answer in the {where}")
            end(machine, "systemctl", "restart", "cloudchat")
            said = machine.show("ActiveState"), machine.show("NRestarts")
            check(said == ("active", "0"), said)
            serves()

        step("is upgraded, and then restarted: three processes, two of them with answers")
        with Answer() as first:
            machine.run(*RELOAD)
            with Answer():
                machine.install(new)
                check(first.runs(), "the upgrade waited for the answer")
                machine.run("systemctl", "restart", "cloudchat")
        serves()
        no_complaint(machine)

        step("is purged")
        reload_ask_and(machine, "dpkg", "--purge", "cloudchat")
        check(not answers(), "it still serves")
        check(not tree.path("var/lib/cloudchat").exists(), "the data is there")
        no_complaint(machine)
