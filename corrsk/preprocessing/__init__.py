"""From measured signals to what a model takes: order of the columns, and normalisation."""

from corrsk.preprocessing.aligner import ProtocolAligner
from corrsk.preprocessing.normalizer import SignalNormalizer

__all__ = ["ProtocolAligner", "SignalNormalizer"]
