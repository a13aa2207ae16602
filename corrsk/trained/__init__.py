"""Classifiers that are trained by simulation alone, for measured signals."""

from corrsk.trained.classifier import SimulationTrainedClassifier
from corrsk.trained.expectation import MeasuredSignalWarning

__all__ = ["MeasuredSignalWarning", "SimulationTrainedClassifier"]
