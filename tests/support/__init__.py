"""Helpers that several test modules share: fakes, worlds and servers. No test imports another test module.

`fakes`                 in-memory fakes behind the worker's own Protocols
`clock`, `examples`     time on a busy machine; how many examples hypothesis tries
`fixtures`              the emulators and the control plane as pytest fixtures
`faulty_firebase`       the emulators behind proxies (`http_proxy`, `tcp_proxy`) that fail on command
`gcs`                   a second Cloud Storage server that honours preconditions
`faulty_world`, `storm` workers that share a failing Firebase; `painting_worker` is what they run
`attacked_world`        a worker under attack, and the table of the attempts
`engine_jobs`           small jobs for the real engine; `small_models` makes weights in the published layouts
"""
