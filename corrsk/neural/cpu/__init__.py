"""Training steps of the paper's CNN on a processor, by compiled kernels."""
