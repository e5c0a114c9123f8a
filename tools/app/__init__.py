"""The whole product on one machine, without an account: `make app`.

`stack`     emulators, control plane, worker, functions and page, in the order in which they need each other
`page`      examples/web, built for this machine's emulators and served on loopback
`__main__`  prints the address, and ends everything at Ctrl-C
"""
