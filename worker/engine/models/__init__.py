"""Which weights serve which task, where they are, and how they are loaded."""
