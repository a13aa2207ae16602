"""Simulation of noisy signals: a transformer, data sets, streams and files."""

from corrsk.simulation.datasets import (
    DATASETS,
    dataset_definition,
    load_dataset,
    make_correlation_signals,
    resolve_dataset,
    simulate_dataset,
)
from corrsk.simulation.definition import DatasetDefinition
from corrsk.simulation.files import read_dataset_mat, write_dataset
from corrsk.simulation.generator import CorrelationSignalGenerator
from corrsk.simulation.streams import SignalStream

__all__ = [
    "DATASETS",
    "CorrelationSignalGenerator",
    "DatasetDefinition",
    "SignalStream",
    "dataset_definition",
    "load_dataset",
    "make_correlation_signals",
    "read_dataset_mat",
    "resolve_dataset",
    "simulate_dataset",
    "write_dataset",
]
