"""Runs the whole product on one machine, without an account: `make app`.

`stack`     starts emulators, control plane, worker, functions and page, in the order of their dependencies
`page`      builds examples/web for the local emulators and serves it on loopback
`__main__`  prints the address, and ends everything on Ctrl-C
"""
