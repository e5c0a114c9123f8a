"""Requests become pictures here: the only package that knows torch and diffusers. Importing it imports neither.

models says which weights serve a task and loads them, memory keeps them, families run them; engine is the one door.
"""
