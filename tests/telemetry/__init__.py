"""Telemetry for outside observers: one trace a job, and counts; nothing unless configured."""
