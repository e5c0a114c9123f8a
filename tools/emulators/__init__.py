"""Emulates the worker's surroundings on one machine, without a network, for the example scripts and the tests.

`firebase`        Firestore, Storage and Auth emulators in one Node process (`node/`), installed once by `install`
`control_plane`   RunPod's side: jobs, results, progress, pings, stop signals
`functions`       the app's backend: `examples/functions`, hosted as Firebase's functions emulator hosts it
`worker_process`  `python handler.py` as RunPod runs it
"""
