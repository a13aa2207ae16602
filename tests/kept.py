"""Small files of every class that `corrsk.save` knows, kept for each version of the format.

    python -m tests.kept

writes those of the present version to tests/files_of_versions, with the predictions that a loaded
file must give. Files that are there already are never written again: a later version of corrsk
reads what an earlier one wrote. Run it before the version of the format is raised, and after a
class is added to the classes that `save` knows. The files of versions 1 to 5 were written by the
versions of corrsk that had these formats.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import clone
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

import corrsk
from corrsk import (
    AcquisitionProtocol,
    CompartmentRegressor,
    CorrelationCNNClassifier,
    CorrelationSignalGenerator,
    IdealObserverClassifier,
    ModuleClassifier,
    MultiExponentialClassifier,
    NNLSPeakClassifier,
    NNLSSpectrum,
    ProtocolAligner,
    ResidualMLPClassifier,
    SignalMasker,
    SignalNormalizer,
    SignalNoveltyDetector,
    SignalPhaser,
    SignalPipeline,
    SimulationTrainedClassifier,
    TissuePrior,
)
from corrsk.baselines import EncodedLabelsClassifier
from corrsk.persistence._files import _VERSION
from corrsk.spatial import SpatialClassifier
from tests.fuzz import LEARNERS, small_baseline

FOLDER = Path(__file__).with_name("files_of_versions")
RECORD = "expected.json"
PROTOCOL = AcquisitionProtocol.from_grid(ti=[50, 400, 2000], te=[10, 30, 80, 150])
_ROWS = 8
SPATIAL = "spatial"
COMPARTMENTS = "compartments"
_SMALL: dict[str, Any] = {"max_epochs": 1, "random_state": 0, "device": "cpu", "verbose": False}
METHODS = ("predict_proba", "score_samples", "transform")


def module() -> nn.Module:
    """Network of the kept ModuleClassifier, whose code is not in its file."""
    return nn.Linear(PROTOCOL.n_measurements, 4)


def folder(version: int) -> Path:
    """Folder of the files of a version of the format."""
    return FOLDER / str(version)


def record(version: int) -> dict[str, Any]:
    """Inputs and expected predictions of the files of a version; empty if there are none."""
    path = folder(version) / RECORD
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def loaded(path: Path) -> Any:
    """Estimator of a kept file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of learners that another scikit-learn has saved
        return corrsk.load(path, **({"module": module()} if path.stem == "module" else {}))


def predictions(name: str, estimator: Any, inputs: dict[str, Any]) -> tuple[str, list[Any]]:
    """Method of an estimator, and what it gives for the inputs of a record."""
    X: Any = np.array(inputs["signals"])
    if name == "generator":
        X = pd.DataFrame(inputs["tissue"], dtype=float)
    if name == SPATIAL:
        X = X.reshape(2, 4, -1)
    method = next(each for each in METHODS if hasattr(estimator, each))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few signals differ from what models expect
        if name == COMPARTMENTS:
            # draws that so small a network proposes have large errors, other ones after any change
            # of the sampler: its own predictions are kept
            estimator.predict_proba(X)
            X = estimator.pipeline_.transform(X)
            return "network_", np.exp(estimator.network_.predict_mixtures(X)[0]).tolist()
        return method, np.asarray(getattr(estimator, method)(X), dtype=np.float64).tolist()


def estimators() -> Iterator[tuple[str, Callable[[], Any]]]:
    """Names of the kept estimators, and functions that fit them."""
    tissue, counts = TissuePrior.named("midl2024").sample(200, random_state=0)
    generator = CorrelationSignalGenerator(PROTOCOL, noise_level=0.02, random_state=0)
    X, y = np.asarray(generator.fit_transform(tissue)), np.asarray(counts)
    pixels = SpatialClassifier(
        [FrozenEstimator(LogisticRegression(max_iter=300).fit(X, y))], n_neighbors=4, sigma=0.03
    )
    mlp = ResidualMLPClassifier(width=4, n_blocks=1, **_SMALL)
    counters: dict[str, Any] = {"protocol": PROTOCOL, "verbose": False}

    def trained_further() -> Any:
        model = make_pipeline(SignalNormalizer(), clone(mlp)).fit(X, y)
        model[-1].partial_fit(X, y)  # with the state of the optimiser
        return model

    plain: dict[str, Any] = {
        "generator": generator,
        "normalizer": SignalNormalizer(),
        "aligner": ProtocolAligner(PROTOCOL),
        "phaser": SignalPhaser(protocol=PROTOCOL),
        "masker": SignalMasker(protocol=PROTOCOL),
        "cnn": CorrelationCNNClassifier(protocol=PROTOCOL, **_SMALL),
        "module": ModuleClassifier(module(), **_SMALL),
        "novelty": SignalNoveltyDetector(n_clusters=1, random_state=0, verbose=False),
        "pipeline-cnn": SignalPipeline(
            [("norm", SignalNormalizer()), ("cnn", CorrelationCNNClassifier(
                protocol=PROTOCOL, **_SMALL))]
        ),
        "logistic": make_pipeline(
            SignalNormalizer(), StandardScaler(), LogisticRegression(max_iter=300)
        ),
        "lda": make_pipeline(SignalNormalizer(), StandardScaler(), LinearDiscriminantAnalysis()),
        "encoded": EncodedLabelsClassifier(LogisticRegression(max_iter=300)),
        "multiexponential": MultiExponentialClassifier(
            n_starts=2, max_steps=5, random_state=0, **counters
        ),
        "nnls": NNLSPeakClassifier(n_bins=8, **counters),
        "spectrum": NNLSSpectrum(n_bins=8, **counters),
        "observer": IdealObserverClassifier(
            noise_level=0.05, n_particles=64, n_runs=2, random_state=0, **counters
        ),
        "extra-trees": ExtraTreesClassifier(2, max_depth=3, random_state=0),
        **{name: small_baseline(name) for name in LEARNERS},
    }  # fmt: skip
    for name, estimator in plain.items():
        data = (tissue, counts) if name == "generator" else (X, y)
        yield name, lambda estimator=estimator, data=data: estimator.fit(*data)
    yield "residual-mlp", trained_further
    yield SPATIAL, pixels.fit
    yield COMPARTMENTS, CompartmentRegressor(
        PROTOCOL, TissuePrior.named("t1t2-detr", n_compartments=(1, 2)), noise_level=0.02,
        n_samples=2000, n_validation=100, width=4, n_blocks=1, n_components=1, max_epochs=2,
        batch_size=100, novelty=False, random_state=0, verbose=False,
    ).fit  # fmt: skip
    yield "trained", SimulationTrainedClassifier(
        PROTOCOL, network=clone(mlp).set_params(random_state=None),
        novelty=SignalNoveltyDetector(n_clusters=1), n_samples=400, n_validation=100,
        random_state=0, verbose=False,
    ).fit  # fmt: skip


def main() -> None:
    """Write the files of the present version that are not kept yet."""
    tissue, _ = TissuePrior.named("midl2024").sample(_ROWS, random_state=0)
    signals = CorrelationSignalGenerator(PROTOCOL, noise_level=0.02, random_state=0)
    kept = record(_VERSION) or {
        "corrsk": corrsk.__version__,
        "signals": np.asarray(signals.fit_transform(tissue)).tolist(),
        "tissue": tissue.astype(object).where(tissue.notna(), None).to_dict("list"),
        "expected": {},
    }
    folder(_VERSION).mkdir(parents=True, exist_ok=True)
    for name, fitted in estimators():
        path = folder(_VERSION) / f"{name}.safetensors"
        if path.exists():
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            corrsk.save(fitted(), path)
        method, values = predictions(name, loaded(path), kept)
        kept["expected"][name] = {"method": method, "values": values}
        (folder(_VERSION) / RECORD).write_text(json.dumps(kept) + "\n", encoding="utf-8")
        print(path)


if __name__ == "__main__":
    main()
