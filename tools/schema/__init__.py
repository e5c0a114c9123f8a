"""The contract as files: JSON Schema out of the models that the worker runs on, and types for apps out of that.

`python -m tools.schema` writes schema/, client/src/wire.ts and client/types/; with `--check` it only says what is old.
"""
