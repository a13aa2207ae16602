"""The ceilings of the named data sets, as measured with the ideal observer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from corrsk._utils.files import read_json

_FILE = Path(__file__).with_name("ceilings.json")


def known_ceiling(dataset: str) -> pd.DataFrame | None:
    """The highest accuracy that any classifier can have on a named data set.

    Parameters
    ----------
    dataset : str
        Name of the data set.

    Returns
    -------
    DataFrame or None
        None if nobody has measured it. Else the first row is of all signals
        (noise_level NaN), the others are of noise levels. Columns noise_level,
        n_signals, accuracy and binary_accuracy, and for each of these `_low` and
        `_high`: estimates that are biased downwards and upwards, between which the
        ceiling lies but for the choice of signals, and `_error`, the standard error
        that this choice leaves.

    Notes
    -----
    Written by ``python benchmarks/ceiling.py``, from answers of
    :class:`corrsk.relaxometry.IdealObserverClassifier`; see
    :func:`accuracy_ceiling`.
    """
    rows = read_json(_FILE).get(dataset)
    if rows is None:
        return None
    table = pd.DataFrame(rows)
    table["noise_level"] = table["noise_level"].astype(np.float64)
    return table
