"""The measurements, by group. Each is a generator of `(name of its row, values, detail)`.

A group gets the run's settings and a `Bench` of its own, whose processes end with it. What a plot
shows goes into `run.series`.
"""

from rows import accounts, counts, memory, requests, sizes, stores, tokens

# In the order in which they are measured: first what does not mind a compiler beside it.
GROUPS = {
    "size": sizes.size,
    "memory": memory.plain,
    "memory-tls": memory.tls,
    "memory-long": memory.long_answers,
    "memory-line": memory.line,
    "allocations": counts.allocations,
    "counts": counts.parts,
    "start": sizes.cold_start,
    "simulator": tokens.simulator,
    "tokens": tokens.delay_and_cpu,
    "first-text": tokens.first_text,
    "flood": tokens.flood,
    "oha": requests.oha,
    "stores": stores.stores,
    "login-rate": accounts.login_rate,
    "login-storm": accounts.login_storm,
}
# Those that do mind.
TIMED = list(GROUPS)[list(GROUPS).index("start"):]
