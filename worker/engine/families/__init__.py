"""One file a model family: condition, denoise, decode."""
