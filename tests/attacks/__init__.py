"""Attacks: what strangers send, and what becomes of it. The run ends with the table; its rows have numbers.

`test_table.py` holds the rows 1 to 65, `test_tickets.py` 66 to 69: the tickets of an app's backend.

Each input goes through `worker.job.runner.run` with the real parser, downloader and decoder. A refusal is right when it
has its code, names the field, repeats nothing long, reaches no model, no network and no object, leaves no document but
the `failed` one of its own valid owner, logs nothing it should not, and the next job succeeds. `harmless` are inputs
that are served as plain text or as a cleaned picture.

Rows that cannot be run here, and why:

    20       a quota for each user is the app's backend's: the worker counts nobody's jobs
    64, 65   what an app may read and write by itself is decided by Firebase: `tests/rules` asks Google's own emulators
             about the security rules (they need Java 21)

Row 61, that no failure tells a secret, is `test_secrets.py`. `test_speed.py`, `test_fuzz.py` and `test_supply.py` stand
beside the table: linear time, random input for a bounded time, and what the repository itself may not do.
"""
