"""Choice of a shipped model for the noise of measured signals."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from corrsk.pretrained.store import model_card, pretrained_names
from corrsk.relaxometry.noise_estimation import NoiseEstimate


def model_advice(noise: NoiseEstimate, folder: str | Path | None = None) -> str:
    """Describe which pretrained models were trained with the noise of measured signals.

    Parameters
    ----------
    noise : NoiseEstimate
        Result of :func:`corrsk.estimate_noise`.
    folder : path-like, optional
        Folder of the models; None (default) for the models shipped with corrsk.

    Returns
    -------
    str
        Text with the models whose noise includes that of the typical voxel, or the closest one
        and its noise; and with each model that was trained with another noise distribution.

    Raises
    ------
    ValueError
        If the folder has no model, or none has a noise reference of the estimate.
    """
    distances: dict[str, float] = {}
    texts, others = {}, []
    for name in pretrained_names(folder):
        trained = model_card(name, folder).noise
        levels = noise.levels.get(trained["reference"])
        if levels is None:
            continue
        low, high = _range(trained)
        level = levels.median
        # of a model without noise, every level is infinitely far
        below = math.log(low / level) if low > level else 0.0
        above = (math.log(level / high) if high else math.inf) if level > high else 0.0
        distances[name] = below + above
        of = {"m0": "M0", "max": "the largest signal", "rms": "the root mean square signal"}
        texts[name] = (
            f"{name} ({100 * low:.3g} to {100 * high:.3g} % of {of[trained['reference']]}; "
            f"these signals have {100 * level:.3g} %)"
        )
        if trained["distribution"] != noise.noise_distribution:
            others.append(f"{name} ({trained['distribution']})")
    if not distances:
        raise ValueError(
            "no model has a noise reference of the estimate, which has "
            f"{', '.join(noise.levels)}; pass a protocol to estimate_noise for m0"
        )
    fitting = [name for name, distance in distances.items() if distance == 0]
    if fitting:
        advice = "trained with this noise: " + ", ".join(texts[name] for name in fitting)
    else:
        closest = min(distances, key=distances.__getitem__)
        advice = f"no model was trained with this noise; the closest is {texts[closest]}"
    if others:
        advice += (
            f"; the noise of these signals is {noise.noise_distribution}, unlike that of "
            f"{', '.join(others)}"
        )
    return advice


def _range(noise: dict[str, Any]) -> tuple[float, float]:
    """Smallest and largest noise level of the training."""
    if "snr" in noise:
        low, high = noise["snr"]
        return 1 / high, 1 / low
    return min(noise["levels"]), max(noise["levels"])
