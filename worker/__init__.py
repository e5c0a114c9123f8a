"""The generation worker: one job in, pictures or a clip out, its document in step.

Data flows through the packages in this order: api (validate), auth, document (claim), sources, engine (generate), media
(encode), storage (upload), document (complete), api (answer); job has the order of things, core what all share.
docs/architecture.md draws the layers and tests/test_layers.py enforces them.
"""
