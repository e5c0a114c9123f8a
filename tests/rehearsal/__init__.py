"""A rehearsal of the GPU's part on a machine without one: the engine's own code on models of full size.

Tensors on the CPU are real; those on the card have a shape, a dtype, a device and a number of bytes, and numbers only
if they are small. Schedulers, tokenizers, seeds and all Python thus run for real, and networks run as the operations
they would ask of a card. The rehearsal shows mismatched devices and dtypes, every wait of the host, the bytes at each
moment, and what is left behind. It does not show pictures, the workspaces of cuDNN and cuBLAS, fragmentation, kernels
that a card lacks, or time.
"""
