"""The client's pictures, fetched from untrusted places."""
