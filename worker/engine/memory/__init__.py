"""Which models are in memory, and where their weights live while they run."""
