"""Result objects in the bucket: paths, tokens, and whose they are."""
