"""Tools for building, testing and deploying; not part of the worker."""
