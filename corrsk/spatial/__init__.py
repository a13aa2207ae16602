"""Spatial context: averages of like neighbours, random fields, and phantoms with truth."""

from corrsk.spatial.averaging import AveragedSignals, average_like_neighbours
from corrsk.spatial.classifier import SpatialClassifier, SpatialContextWarning
from corrsk.spatial.field import mean_field
from corrsk.spatial.phantom import ParcelPhantom, make_parcel_phantom

__all__ = [
    "AveragedSignals",
    "ParcelPhantom",
    "SpatialClassifier",
    "SpatialContextWarning",
    "average_like_neighbours",
    "make_parcel_phantom",
    "mean_field",
]
