"""The training loop: skorch's, with whole batches and no per-batch bookkeeping."""

from corrsk.neural.cpu.step import KERNELS
from corrsk.neural.networks import NETWORKS, NetworkShape
from corrsk.neural.onnx import write_onnx
from corrsk.neural.training.device import limited_threads, resolve_device
from corrsk.neural.training.fitting import Source, train_further, train_network
from corrsk.neural.training.optimizers import OPTIMIZERS
from corrsk.neural.training.prediction import (
    device_name,
    predict_probabilities,
    restored_net,
    weights_of,
)
from corrsk.neural.training.schedules import SCHEDULES
from corrsk.neural.training.settings import (
    INPUT_SCALINGS,
    PRECISIONS,
    TrainingSettings,
    resolve_batch_size,
)
from corrsk.neural.training.streaming import StreamPlan

__all__ = [
    "INPUT_SCALINGS",
    "KERNELS",
    "NETWORKS",
    "OPTIMIZERS",
    "PRECISIONS",
    "SCHEDULES",
    "NetworkShape",
    "Source",
    "StreamPlan",
    "TrainingSettings",
    "device_name",
    "limited_threads",
    "predict_probabilities",
    "resolve_batch_size",
    "resolve_device",
    "restored_net",
    "train_further",
    "train_network",
    "weights_of",
    "write_onnx",
]
