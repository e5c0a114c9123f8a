"""Turns a prompt into a model's text embeddings."""
