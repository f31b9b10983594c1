"""The other side of tests/hasher: argon2-cffi. The password is the first line of standard input.

    cffi.py make      prints hashes of many kinds, one a line
    cffi.py verify    reads hashes, one a line, and prints "yes" or "no" for each
"""

import sys

from argon2 import PasswordHasher, Type, exceptions, low_level

sys.stdin.reconfigure(encoding="utf-8")
password, *hashes = sys.stdin.read().split("\n")


def old(kind, memory, passes, lanes):
    """As before Argon2 strings had versions."""
    made = low_level.hash_secret(password.encode(), b"sixteen bytes :)", passes, memory, lanes, 32, kind, version=16)
    return made.decode()


if sys.argv[1] == "make":
    # First what the service that CloudChat replaces wrote.
    for settings in [dict(memory_cost=65536, time_cost=3, parallelism=4), {}, dict(type=Type.I),
                     dict(memory_cost=19456, time_cost=2, parallelism=1, type=Type.I),
                     dict(memory_cost=8, time_cost=1, parallelism=1), dict(memory_cost=1001, time_cost=7, parallelism=5),
                     dict(memory_cost=102400, time_cost=2, parallelism=8),
                     dict(memory_cost=19456, time_cost=2, parallelism=1, hash_len=64, salt_len=32),
                     dict(memory_cost=19456, time_cost=2, parallelism=1, salt_len=8)]:
        print(PasswordHasher(**settings).hash(password))
    print(old(Type.ID, 64, 2, 2))
    print(old(Type.I, 64, 2, 2))
    # The oldest strings name no version.
    print(old(Type.I, 4096, 3, 1).replace("v=16$", ""))
else:
    for text in filter(None, hashes):
        try:
            print("yes" if PasswordHasher().verify(text, password) else "no")
        except exceptions.VerifyMismatchError:
            print("no")
