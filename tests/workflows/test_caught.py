"""Warnings that records keep."""

from __future__ import annotations

import warnings

from corrsk.workflows._caught import texts_of


def test_warnings_of_other_code_are_not_kept():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for category in (UserWarning, ResourceWarning, DeprecationWarning, RuntimeWarning):
            warnings.warn("a text", category, stacklevel=1)
    assert texts_of(caught) == [("UserWarning", "a text"), ("RuntimeWarning", "a text")]
