"""The training: skorch's loop, with whole batches and no bookkeeping for each of them."""
