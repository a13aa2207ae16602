"""Pretrained models that are shipped with corrsk, and their model cards."""

from corrsk.pretrained.advice import model_advice
from corrsk.pretrained.cards import ModelCard
from corrsk.pretrained.store import (
    load_pretrained,
    model_card,
    pretrained_names,
    write_pretrained,
)

__all__ = [
    "ModelCard",
    "load_pretrained",
    "model_advice",
    "model_card",
    "pretrained_names",
    "write_pretrained",
]
