"""The world around the worker, on one machine and without a network.

`firebase`        Firestore, Storage and Auth emulators in one Node process (`node/`), installed once by `install`
`gcs`             a second Cloud Storage server that honours preconditions
`faults`          the emulators behind proxies (`http_proxy`, `tcp_proxy`) that fail on command
`control_plane`   RunPod's side: jobs, results, progress, pings, stop signals
`worker_process`  `python handler.py` as RunPod runs it
`plugin`          all of it as pytest fixtures
"""
