"""From generated pixels to files that a client can open."""
