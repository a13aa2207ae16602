"""The training loop: skorch's, with whole batches and no per-batch bookkeeping."""

from corrsk.training.device import resolve_device, set_threads
from corrsk.training.fitting import (
    TrainingSettings,
    device_name,
    predict_probabilities,
    restored_net,
    train_network,
    weights_of,
)
from corrsk.training.schedules import SCHEDULES

__all__ = [
    "SCHEDULES",
    "TrainingSettings",
    "device_name",
    "predict_probabilities",
    "resolve_device",
    "restored_net",
    "set_threads",
    "train_network",
    "weights_of",
]
