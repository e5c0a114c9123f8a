"""Traces and metrics: one trace per job. Off unless the operator configures an endpoint."""
