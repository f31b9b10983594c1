"""The statically linked program in a root folder that holds nothing else, started as Dockerfile says."""

import json
import os
import re
import shutil
import tempfile
from pathlib import Path

from kit import REPOSITORY, ask, chat, check, demo_remembers, provider, run, serves, serving, step
from provider import MODEL, NAME


def instructions():
    """The last value of each instruction of the Dockerfile."""
    text = (REPOSITORY / "Dockerfile").read_text()
    return dict(re.findall(r"^([A-Z]+) (.*)$", text, re.M))


def test(built):
    told = instructions()
    entry, words, user = json.loads(told["ENTRYPOINT"]), json.loads(told["CMD"]), told["USER"]
    check(told["RUN"] == "packages/build static", "the image is built by", told["RUN"])
    number = int(user.split(":")[0])
    with tempfile.TemporaryDirectory() as root:
        root = Path(root)
        root.chmod(0o755)
        shutil.copytree(built, root, dirs_exist_ok=True)
        check({path.name for path in root.iterdir()} == {"cloudchat", "data"}, "there is more in the root")
        os.chown(root / "data", number, number)
        start = ["chroot", f"--userspec={user}", root, *entry]

        step("serves, with no file but its own, as a user without a name")
        with serving(*start, *words, env={}):
            serves()
            check(ask("POST", "/deepseek_chat", {"message": "Hi"})[0] == 503, "nobody is there to be asked")
        check((root / "data/accounts.db").stat().st_uid == number, "the data belongs to another user")

        step("shows the demonstration")
        with serving(*start, "demo", "--data-dir", "/data/demo", env={}):
            demo_remembers()

        names_and_certificates(root, start, words)


def names_and_certificates(root, start, words):
    """Container engines add these two files; without them there would be no names."""
    certificate = root / "data" / "provider.pem"
    run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
        "-subj", f"/CN={NAME}", "-addext", f"subjectAltName=DNS:{NAME}", "-addext", "basicConstraints=critical,CA:FALSE",
        "-keyout", root / "key.pem", "-out", certificate)
    certificate.chmod(0o644)
    both = root / "both.pem"
    both.write_text(certificate.read_text() + (root / "key.pem").read_text())
    (root / "data" / "trusting.toml").write_text('upstream.ca_file = "/data/provider.pem"\n')
    env = {"DEEPSEEK_BASE_URL": f"https://{NAME}/v1", "DEEPSEEK_MODEL": MODEL, "DEEPSEEK_API_KEY": "k"}
    etc = root / "etc"
    etc.mkdir()
    trusting = ["--config", "/data/trusting.toml"]
    with provider("443", both), provider("--names", "53"):
        step("finds a provider by its name server, and trusts a certificate of its own file")
        (etc / "resolv.conf").write_text("nameserver 127.0.0.1\n")
        with serving(*start, *words, *trusting, env=env):
            check(chat("Hi")[0] == "0 1 2 ", "the answer")
        step("trusts no stranger: the authorities are in the program")
        with serving(*start, *words, env=env) as server:
            status = ask("POST", "/deepseek_chat", {"message": "Hi"})[0]
            check(status == 502, "a stranger's certificate got", status)
        check("code=tls-" in server.said, server.said)
    with provider("443", both):
        step("finds it by its file of hosts")
        (etc / "resolv.conf").unlink()
        (etc / "hosts").write_text(f"127.0.0.1 {NAME}\n")
        with serving(*start, *words, *trusting, env=env):
            check(chat("Hi")[0] == "0 1 2 ", "the answer")
