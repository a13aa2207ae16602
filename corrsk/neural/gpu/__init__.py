"""Training on a GPU: CUDA graphs, simulation on the GPU, stacks of networks."""
