"""The measure of the demo models, on the pictures of their own generator."""
