"""Authentication: who the caller is, and whether they may act for a user."""
