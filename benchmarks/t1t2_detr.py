"""Accuracy of the pretrained models of the data set t1t2-detr, beside that of the thesis.

Count accuracy on fresh signals: with the SNR of the data set (uniform in 30..150), and at
fixed SNRs; SNR 20 is outside the training range of all models. The network of the thesis, as
"t1t2-detr", does not use the scale of the signals; "t1t2-detr-m0" does, and needs M0 = 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from _measure import record

from corrsk import load_pretrained, make_correlation_signals
from corrsk.evaluation import bootstrap_interval, known_ceiling
from corrsk.simulation.datasets import DATASETS
from corrsk.workflows.paper import T1T2_DETR_ACCURACY

N_SIGNALS = 100_000
SEED = 30_000


def main() -> None:
    models = {name: load_pretrained(name) for name in ("t1t2-detr", "t1t2-detr-m0")}
    definition = DATASETS["t1t2-detr"]
    rows: dict[str, dict[str, Any]] = {}
    for number, (snr, published) in enumerate(T1T2_DETR_ACCURACY.items()):
        X, y = make_correlation_signals(
            N_SIGNALS, prior=definition.prior, protocol=definition.protocol,
            noise_level=definition.noise_levels if snr is None else 1 / snr,
            noise_reference=definition.noise_reference, norm=definition.norm,
            random_state=SEED + number,
        )  # fmt: skip
        row = rows["30..150" if snr is None else f"{snr:g}"] = {"published": published}
        for name, model in models.items():
            right = model.predict(X) == y
            low, high = bootstrap_interval([right])
            row[name] = {
                "accuracy": round(float(right.mean()), 4),
                "interval": [round(low, 4), round(high, 4)],
            }
    ceiling = known_ceiling("t1t2-detr")
    if ceiling is not None:
        bounds = ceiling.loc[0, ["accuracy_low", "accuracy", "accuracy_high"]].to_numpy(
            dtype=np.float64
        )
        rows["30..150"]["best possible with M0 = 1: lower, corrected, upper estimate"] = (
            bounds.tolist()
        )
    record("t1t2_detr", {"n_signals": N_SIGNALS, "count accuracy by SNR": rows})


if __name__ == "__main__":
    main()
