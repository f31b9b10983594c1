"""The shipped site of Nginx, with addresses and paths of one's own and a certificate that vouches for itself."""

import subprocess
import time

from harness import ROOT, Trouble, free_port, listeners, need

SHIPPED = ROOT / "systemd"
CERTIFICATE = """[req]
distinguished_name = name
x509_extensions = more
prompt = no
[name]
CN = chat.example.com
[more]
subjectAltName = IP:127.0.0.1
basicConstraints = critical,CA:FALSE
"""


def prepare(folder, listen, upstream):
    """Writes site.conf, fullchain.pem and privkey.pem into the folder. `listen` takes the place of the site's 443."""
    (folder / "openssl.cnf").write_text(CERTIFICATE)
    subprocess.run([need("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-config", folder / "openssl.cnf",
                    "-keyout", folder / "privkey.pem", "-out", folder / "fullchain.pem"], check=True, capture_output=True)
    site = (SHIPPED / "nginx/cloudchat.conf").read_text()
    for line in ["80;", "80 default_server;", "443 ssl http2;", "443 ssl http2 default_server;"]:
        site = replaced(site, f"    listen [::]:{line}\n", "")
    for line, ours in [("listen 80", f"listen 127.0.0.1:{free_port()}"),
                       ("listen 443 ssl http2 default_server;", f"listen 127.0.0.1:{free_port()} ssl http2 default_server;"),
                       ("listen 443 ssl http2;", f"listen {listen};"), ("server 127.0.0.1:5000;", f"server 127.0.0.1:{upstream};"),
                       ("/var/lib/nginx/cloudchat", f"{folder}/cache"), ("/etc/letsencrypt/live/chat.example.com", str(folder))]:
        site = replaced(site, line, ours)
    (folder / "site.conf").write_text(site)


def replaced(site, line, ours):
    if line not in site:
        raise Trouble(f"the shipped site does not say {line!r}")
    return site.replace(line, ours)


def wait_until_listens(process, port, folder):
    give_up = time.monotonic() + 10
    while not listeners(port):
        if process.poll() is not None or time.monotonic() > give_up:
            raise Trouble(f"Nginx does not listen, see {folder}")
        time.sleep(0.01)
