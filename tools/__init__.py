"""Helpers for building and deploying; no part of the worker."""
