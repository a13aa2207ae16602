"""Preparation of measured signals: kind, column order, normalisation, voxels without signal."""

from corrsk._utils.voxels import NoSignalWarning
from corrsk.preprocessing.aligner import ProtocolAligner
from corrsk.preprocessing.kind import signal_kind
from corrsk.preprocessing.normalizer import SignalNormalizer
from corrsk.preprocessing.phase import PhasedSignals, phase_signals
from corrsk.preprocessing.phaser import SignalPhaser
from corrsk.preprocessing.pipeline import SignalPipeline
from corrsk.preprocessing.polarity import RestoredPolarity, restore_polarity

__all__ = [
    "NoSignalWarning",
    "PhasedSignals",
    "ProtocolAligner",
    "RestoredPolarity",
    "SignalNormalizer",
    "SignalPhaser",
    "SignalPipeline",
    "phase_signals",
    "restore_polarity",
    "signal_kind",
]
