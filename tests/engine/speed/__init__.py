"""Trade-offs for speed: each part has one switch, and leaves no trace where it is off."""
