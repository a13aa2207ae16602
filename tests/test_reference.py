"""The numbers of tests/reference.json, which `python -m tests.reference` renews."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests import reference

EXPECTED = json.loads(reference.PATH.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def found():
    return reference.numbers()


@pytest.mark.parametrize("name", EXPECTED)
def test_numbers_are_those_of_the_reference(found, name):
    # fits end where their steps become small; all else has a closed form
    rtol, atol = (1e-5, 1e-7) if name in reference.ITERATED else (1e-11, 1e-13)
    np.testing.assert_allclose(found[name], EXPECTED[name], rtol=rtol, atol=atol)


def test_the_reference_has_all_numbers(found):
    assert found.keys() == EXPECTED.keys()
