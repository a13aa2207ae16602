"""Novelty detection: signals that differ from all signals of the training prior."""

from corrsk.novelty.detector import SignalNoveltyDetector

__all__ = ["SignalNoveltyDetector"]
