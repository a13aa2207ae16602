"""Models that are trained by simulation alone, for measured signals."""

from corrsk.trained.classifier import SimulationTrainedClassifier
from corrsk.trained.expectation import MeasuredSignalWarning
from corrsk.trained.modes import CompartmentModes
from corrsk.trained.posterior import CompartmentPosterior
from corrsk.trained.regressor import CompartmentRegressor

__all__ = [
    "CompartmentModes",
    "CompartmentPosterior",
    "CompartmentRegressor",
    "MeasuredSignalWarning",
    "SimulationTrainedClassifier",
]
