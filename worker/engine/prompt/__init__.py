"""From a prompt's text to what a model reads of it."""
