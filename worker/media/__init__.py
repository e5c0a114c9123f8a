"""Encodes and decodes pictures and clips. No torch, no network."""
