"""Benchmarks to run by hand; none of this runs in production."""
