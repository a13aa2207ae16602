"""The training loop: skorch's, with whole batches and no per-batch bookkeeping."""

from corrsk.training.device import limited_threads, resolve_device
from corrsk.training.fitting import (
    TrainingSettings,
    device_name,
    predict_probabilities,
    resolve_batch_size,
    restored_net,
    train_network,
    weights_of,
)
from corrsk.training.schedules import SCHEDULES

__all__ = [
    "SCHEDULES",
    "TrainingSettings",
    "device_name",
    "limited_threads",
    "predict_probabilities",
    "resolve_batch_size",
    "resolve_device",
    "restored_net",
    "train_network",
    "weights_of",
]
