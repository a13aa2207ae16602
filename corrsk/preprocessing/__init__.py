"""Preprocessing of measured signals: order of the measurements, and normalisation."""

from corrsk.preprocessing.aligner import ProtocolAligner
from corrsk.preprocessing.normalizer import SignalNormalizer

__all__ = ["ProtocolAligner", "SignalNormalizer"]
