"""A rehearsal of the GPU's part on a machine without one: the engine's own code on models of full size.

Tensors on the CPU are real; those on the card have a shape, a dtype, a device and a number of bytes, and no numbers
unless they are small. So schedulers, tokenizers, seeds and all Python run for real, and networks as what they would ask
of a card. Seen are mismatched devices and dtypes, what the host waits for, bytes at each moment, and what is left
behind. Not seen are pictures, the workspaces of cuDNN and cuBLAS, fragments, kernels that a card lacks, and time.
"""
