"""Training of the networks: skorch's loop on whole batches, without per-batch history."""
