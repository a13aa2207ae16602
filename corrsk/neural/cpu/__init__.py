"""Training of the paper's CNN on the processor with compiled kernels."""
