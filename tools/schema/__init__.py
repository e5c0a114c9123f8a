"""Generates JSON Schema from the worker's own models, and from that the types for apps.

`python -m tools.schema` writes schema/, client/src/wire.ts and client/types/; `--check` only lists outdated files.
"""
