"""Pixels to bytes and back. No torch, no network."""
