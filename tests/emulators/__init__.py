"""The world around the worker, on one machine and without a network."""
