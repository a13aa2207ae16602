"""Training on a GPU: captured steps, streams that it draws itself, stacks of networks."""
