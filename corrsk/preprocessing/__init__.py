"""Preparation of measured signals: column order, normalisation, voxels without signal."""

from corrsk._utils.voxels import NoSignalWarning
from corrsk.preprocessing.aligner import ProtocolAligner
from corrsk.preprocessing.normalizer import SignalNormalizer
from corrsk.preprocessing.pipeline import SignalPipeline

__all__ = ["NoSignalWarning", "ProtocolAligner", "SignalNormalizer", "SignalPipeline"]
