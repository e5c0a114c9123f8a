"""One file per model family: condition, denoise, decode."""
