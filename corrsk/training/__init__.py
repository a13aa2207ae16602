"""The training loop: skorch's, with whole batches and no per-batch bookkeeping."""

from corrsk.networks import NETWORKS, NetworkShape
from corrsk.training.compiled import KERNELS
from corrsk.training.device import limited_threads, resolve_device
from corrsk.training.fitting import Source, train_further, train_network
from corrsk.training.onnx_export import write_onnx
from corrsk.training.optimizers import OPTIMIZERS
from corrsk.training.prediction import (
    device_name,
    predict_probabilities,
    restored_net,
    weights_of,
)
from corrsk.training.schedules import SCHEDULES
from corrsk.training.settings import (
    INPUT_SCALINGS,
    PRECISIONS,
    TrainingSettings,
    resolve_batch_size,
)
from corrsk.training.streaming import StreamPlan

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
