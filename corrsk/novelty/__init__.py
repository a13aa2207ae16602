"""A warning for signals that no tissue of a prior explains."""

from corrsk.novelty.detector import SignalNoveltyDetector

__all__ = ["SignalNoveltyDetector"]
