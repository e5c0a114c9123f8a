"""Adapters that a job attaches to the loaded networks and removes again, however it ends."""
