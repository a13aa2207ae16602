"""Models that are trained by simulation alone, for measured signals."""

from corrsk.trained.classifier import SimulationTrainedClassifier
from corrsk.trained.expectation import MeasuredSignalWarning
from corrsk.trained.posterior import CompartmentPosterior
from corrsk.trained.regressor import CompartmentRegressor

__all__ = [
    "CompartmentPosterior",
    "CompartmentRegressor",
    "MeasuredSignalWarning",
    "SimulationTrainedClassifier",
]
