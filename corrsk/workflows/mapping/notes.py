"""Warnings of a run: shown once, before the long work, and kept for the record."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from corrsk.workflows._caught import texts_of

_logger = logging.getLogger(__name__)


@dataclass
class Notes:
    """Warnings and notes of one subject, each kind once.

    Parameters
    ----------
    subject : str
        Name of the subject.
    """

    subject: str
    found: list[dict[str, str]] = field(default_factory=list)
    _seen: set[tuple[str, str]] = field(default_factory=set)

    def add(self, category: str, message: str) -> None:
        """Log and keep a message, unless one of its kind, up to numbers, was kept before."""
        text = " ".join(message.split())
        kind = (category, re.sub(r"[\d.,]+", "#", text)[:40])
        if kind in self._seen:
            return
        self._seen.add(kind)
        self.found.append({"category": category, "message": text})
        _logger.warning("%s: %s: %s", self.subject, category, text)

    @contextmanager
    def collect(self) -> Iterator[None]:
        """Keep the warnings of a block, in place of showing them."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                yield
            finally:
                kept = list(caught)
        for text in texts_of(kept):
            self.add(*text)
