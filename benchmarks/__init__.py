"""Measurements by hand: none of it runs in production."""
