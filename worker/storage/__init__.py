"""Result objects in the bucket: paths, tokens and owners."""
