#!/usr/bin/env python3
"""Makes the old service's tables in an empty database and fills them, see population.sql.

    populate.py URL USERS    CLOUDCHAT_TEST_PSQL is the path of psql
"""

import os
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent


def main():
    if len(sys.argv) != 3 or not sys.argv[2].isdecimal():
        sys.exit(__doc__)
    url, users = sys.argv[1:]
    psql = os.environ.get("CLOUDCHAT_TEST_PSQL")
    if psql is None:
        sys.exit("populate.py: CLOUDCHAT_TEST_PSQL is not set, see tests/services/run")
    # All or nothing, and in this folder: the statements read hashes.txt.
    command = [psql, "-X", "-q", "-1", "-v", "ON_ERROR_STOP=1", "-v", f"users={users}", "-d", url,
               "-f", "schema.sql", "-f", "population.sql"]
    done = subprocess.run(command, cwd=FOLDER, stdin=subprocess.DEVNULL, env={**os.environ, "PGCLIENTENCODING": "UTF8"})
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
