"""A stand-in for the old service: its statements, through the libraries that it uses. Started by `run`.

    service.py serve [--light] [--no-rehash]
        One JSON object on each line of standard input, answered by one each: {"ok": true, …, "ms": 12.3} or
        {"ok": false, "error": "…", "ms": 12.3}. `do` is the operation, the rest its arguments, see operations.py:
        {"do": "register", "email": "a@example.org", "password": "…", "phone": null, "display_name": null}
    service.py load --seconds N [--registrations 20] [--logins 50] [--hold 10]
        Works at these rates a second until N seconds have passed and standard input has said `stop` or ended,
        see load.py.
    service.py hashes
        Prints a new hashes.txt.

DATABASE_URL and REDIS_URL say where the data is. Hashes have the old service's parameters; with --light, and
in a load, they cost next to nothing. With --no-rehash a login leaves hashes of other parameters alone.
"""

import argparse
import json
import os
import sys
import time

from argon2 import PasswordHasher, Type

import load
from operations import Refused, Service, text

# As the old service has it, and one that takes about a millisecond.
OLD = {"memory_cost": 65536, "time_cost": 3, "parallelism": 4}
LIGHT = {"memory_cost": 1024, "time_cost": 1, "parallelism": 1}
# What a line of standard input may ask for.
OPERATIONS = {"register", "login", "me", "forgot", "reset", "flask_session"}


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser("serve")
    verb.add_argument("--light", action="store_true")
    verb.add_argument("--no-rehash", action="store_true")
    verb = verbs.add_parser("load")
    verb.add_argument("--seconds", type=float, required=True)
    verb.add_argument("--registrations", type=float, default=20)
    verb.add_argument("--logins", type=float, default=50)
    verb.add_argument("--hold", type=float, default=10)
    verbs.add_parser("hashes")
    options = parser.parse_args()
    # A file of CloudChat's tests is UTF-8, whatever the locale says.
    for stream in [sys.stdin, sys.stdout]:
        stream.reconfigure(encoding="utf-8")
    match options.verb:
        case "serve":
            serve(service(LIGHT if options.light else OLD, rehashes=not options.no_rehash))
        case "load":
            # More connections than threads, so that the pool is never what they wait for.
            load.run(service(LIGHT, pool_size=20), options)
        case "hashes":
            print_hashes()


def service(parameters, **more):
    return Service(os.environ["DATABASE_URL"], os.environ["REDIS_URL"], PasswordHasher(**parameters), **more)


def serve(service):
    for line in sys.stdin:
        start = time.monotonic()
        try:
            asked = json.loads(line)
            name = asked.pop("do")
            if name not in OPERATIONS:
                raise Refused(f"{name} is not known")
            answer = {"ok": True, **getattr(service, name)(**asked)}
        except Exception as error:
            # Whatever goes wrong is an answer of this one line; the next may work again.
            answer = {"ok": False, "error": text(error)}
        answer["ms"] = round(1000 * (time.monotonic() - start), 1)
        print(json.dumps(answer, ensure_ascii=False), flush=True)


def print_hashes():
    """200 passwords for the ordinary users, then the one of the odd users, hashed in four ways."""
    for n in range(1, 201):
        password = f"old password {n:03}"
        print(password, PasswordHasher(**OLD).hash(password), sep="\t")
    small, large = {"memory_cost": 8192, "time_cost": 1, "parallelism": 1}, {**OLD, "memory_cost": 262144}
    for parameters in [OLD, small, {**OLD, "type": Type.I}, large]:
        password = "odd password 1"
        print(password, PasswordHasher(**parameters).hash(password), sep="\t")


if __name__ == "__main__":
    main()
