"""Requests become pictures here: the only package that knows torch and diffusers. Importing it imports neither.

catalog, defaults, places and weigh say which weights serve a task, what they say of themselves, where they lie and what
they weigh; placement decides where they live while they run; loading reads them, shelf keeps them; sdxl and wan run
them; engine is the one door to it all.
"""
