"""Attacks by strangers and by signed-in users. The run ends with a table whose rows are numbered.

`test_table.py` holds rows 1 to 65, `test_tickets.py` 66 to 69 (an app backend's tickets), `test_signed_in.py` 80 to 99.

Each input goes through `worker.job.runner.run` with the real parser, downloader and decoder. A refusal is right when it
has its code, names the field, repeats nothing long, reaches no model, network or object, leaves no document but the
`failed` one of its own valid owner, logs nothing it should not, and the next job succeeds. `harmless` counts inputs
that are served as plain text or as a cleaned picture.

Rows that cannot run here, and why:

    20       quotas per user belong to the app's backend: the worker counts nobody's jobs
    64, 65   Firebase decides what an app may read and write by itself: `tests/rules` checks the security rules with
             Google's own emulators (they need Java 21)

Row 61, no failure reveals a secret, is `test_secrets.py`. Not in the table: `test_speed.py` (linear time),
`test_fuzz.py` (random input for a bounded time) and `test_supply.py` (what the repository itself may not do).
"""
