"""The pipelines on small weights: real diffusers classes, real files, on the CPU."""
