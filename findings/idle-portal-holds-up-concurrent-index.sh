#!/usr/bin/env bash
# PostgreSQL 16.2, READ COMMITTED: whether an idle transaction holds up CREATE INDEX CONCURRENTLY of another session
# depends on the protocol of its last statement. After one sent by the extended protocol (with parameters, as most
# drivers do) the unnamed portal stays until the next one, and with it the snapshot that it used, so the index waits
# for that transaction; after the same statement by the simple protocol it does not. pg_stat_activity shows both as
# "idle in transaction", the first with a backend_xmin.
# Expected: the same for both, since in READ COMMITTED a statement's snapshot ends with the statement.
# Who is hurt: whoever migrates under load. A lock guard that sends its statements with parameters stops its own
# second session from building indexes.
#
# Output seen (pgserver 0.1.4, which holds PostgreSQL 16.2; psycopg 3.2.3):
#   extended protocol: backend_xmin set,   index: canceled
#   simple protocol:   backend_xmin empty, index: built
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet pgserver==0.1.4 'psycopg[binary]==3.2.3'
# The server does not run as root: then pgserver takes a user of its own, who must get into the folder.
chmod 755 "$folder"
"$folder/venv/bin/python" - "$folder/data" <<'PYTHON'
import sys
import pgserver
import psycopg

server = pgserver.get_server(sys.argv[1], cleanup_mode="stop")
uri = server.get_uri()
admin = psycopg.connect(uri, autocommit=True)
print(admin.execute("SHOW server_version").fetchone()[0])
admin.execute("CREATE TABLE t (n int); INSERT INTO t SELECT generate_series(1, 10)")
admin.execute("SET statement_timeout = '3s'")
seen = []
for name, cursor in [("extended", psycopg.Cursor), ("simple", psycopg.ClientCursor)]:
    other = psycopg.connect(uri, cursor_factory=cursor)
    # Both see the one row, and the transaction stays open.
    assert other.execute("SELECT n FROM t WHERE n = %s", [7]).fetchall() == [(7,)]
    (xmin,) = admin.execute("SELECT backend_xmin::text FROM pg_stat_activity WHERE pid = %s",
                            [other.info.backend_pid]).fetchone()
    try:
        admin.execute(f"CREATE INDEX CONCURRENTLY by_n_{name} ON t (n)")
        index = "built"
    except psycopg.errors.QueryCanceled:
        index = "canceled"
    print(f"{name} protocol: backend_xmin {'empty' if xmin is None else 'set'}, index: {index}")
    seen.append((xmin is not None, index))
    other.rollback()
    other.close()
admin.close()
assert seen == [(True, "canceled"), (False, "built")], seen
PYTHON
