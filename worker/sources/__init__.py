"""Fetches the client's pictures and LoRAs from untrusted places."""
