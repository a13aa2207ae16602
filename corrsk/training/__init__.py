"""The training loop: skorch's, with whole batches and no per-batch bookkeeping."""

from corrsk.training.callbacks import BestEpoch, EpochProgress, LearningRateSchedule
from corrsk.training.checkpoint import TrainingCheckpoint, fingerprint
from corrsk.training.device import resolve_device
from corrsk.training.net import CountLoss, SignalNet, TensorSignals, WholeBatches
from corrsk.training.schedules import SCHEDULES

__all__ = [
    "SCHEDULES",
    "BestEpoch",
    "CountLoss",
    "EpochProgress",
    "LearningRateSchedule",
    "SignalNet",
    "TensorSignals",
    "TrainingCheckpoint",
    "WholeBatches",
    "fingerprint",
    "resolve_device",
]
