"""Models that come with corrsk, and the cards that tell what they are good for."""

from corrsk.pretrained.cards import ModelCard
from corrsk.pretrained.store import (
    load_pretrained,
    model_card,
    pretrained_names,
    pretrained_pipeline,
    write_pretrained,
)

__all__ = [
    "ModelCard",
    "load_pretrained",
    "model_card",
    "pretrained_names",
    "pretrained_pipeline",
    "write_pretrained",
]
