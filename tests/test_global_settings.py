"""Global settings of torch, numpy, pandas and scikit-learn, which users and other packages change.

Every public estimator gives the same results, to the last bit, under each of the settings.
"""

from __future__ import annotations

import tempfile
import warnings
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sklearn
import torch
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.tree import DecisionTreeClassifier

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
    SignalStream,
    SimulationTrainedClassifier,
    SpatialClassifier,
    StackedGridSearchCV,
    TissuePrior,
    load,
    load_images,
    load_pretrained,
    make_correlation_signals,
    save,
)
from corrsk.baselines import EncodedLabelsClassifier, ScaledBatchClassifier, make_baseline
from corrsk.evaluation import accuracy_ceiling
from tests.test_estimator_checks import public_estimators

PROTOCOL = AcquisitionProtocol.named("ir-se-8x8")


@contextmanager
def set_and_restored(get, change, value):
    before = get()
    change(value)
    try:
        yield
    finally:
        change(before)


def torch_setting(name, value):
    return set_and_restored(getattr(torch, f"get_{name}"), getattr(torch, f"set_{name}"), value)


def deterministic():
    return set_and_restored(
        torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms, True
    )


@contextmanager
def default_device(device):
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextmanager
def new_precision(value):
    """Set the precision of products by the attributes of the backends."""
    products = torch.backends.cuda.matmul, torch.backends.mkldnn.matmul, torch.backends.mkldnn.conv
    with ExitStack() as stack:
        for product in products:
            stack.callback(setattr, product, "fp32_precision", product.fp32_precision)
            product.fp32_precision = "tf32" if product is products[0] else value
        yield


@contextmanager
def pandas_option(name, value):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # later versions of pandas deprecate options
        before = pd.get_option(name)
        pd.set_option(name, value)
    try:
        yield
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pd.set_option(name, before)


SETTINGS = {
    "default dtype": lambda: torch_setting("default_dtype", torch.float64),
    "default device": lambda: default_device("meta"),
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "matmul precision": lambda: torch_setting("float32_matmul_precision", "medium"),
    "precision of backends": lambda: new_precision("bf16"),
    "deterministic algorithms": deterministic,
    "anomaly detection": lambda: torch.autograd.set_detect_anomaly(True, check_nan=False),
    "floating point errors": lambda: np.errstate(all="raise"),
    "print options": lambda: np.printoptions(precision=1, threshold=2),
    "object strings": lambda: pandas_option("future.infer_string", False),
    "strings": lambda: pandas_option("future.infer_string", True),
    "string storage": lambda: pandas_option("mode.string_storage", "python"),
    "copy on write": lambda: pandas_option("mode.copy_on_write", True),
    "assume_finite": lambda: sklearn.config_context(assume_finite=True),
    "pandas output": lambda: sklearn.config_context(transform_output="pandas"),
    "no validation": lambda: sklearn.config_context(skip_parameter_validation=True),
    "metadata routing": lambda: sklearn.config_context(enable_metadata_routing=True),
    "working memory": lambda: sklearn.config_context(working_memory=1),
}


def signals(n=120):
    return make_correlation_signals(n, noise_level=0.001, random_state=0, verbose=False)


def network(cls, **parameters):
    def results():
        X, y = signals()
        model = cls(max_epochs=2, random_state=0, verbose=False, **parameters)
        model.fit(X, y)
        before = model.predict_proba(X)
        return before, model.partial_fit(X, y).predict_proba(X)

    return results


def classifier(make, n=120):
    def results():
        X, y = signals(n)
        return make().fit(X, y).predict_proba(X), None

    return results


def transformer(make):
    def results():
        X, _ = signals()
        return np.asarray(make().fit(X).transform(X)), None

    return results


def generated():
    tissue, _ = TissuePrior.named("midl2024").sample(50, random_state=0, verbose=False)
    generator = CorrelationSignalGenerator(random_state=0, verbose=False)
    return np.asarray(generator.fit_transform(tissue)), np.asarray(generator.transform(tissue))


def novelty():
    X, _ = signals(400)
    detector = SignalNoveltyDetector(random_state=0, verbose=False).fit(X)
    return detector.score_samples(X), detector.predict(X)


def searched():
    X, y = signals()
    model = CorrelationCNNClassifier(
        protocol="ir-se-8x8", max_epochs=1, random_state=0, verbose=False
    )
    grid = {"learning_rate": [0.001, 0.01]}
    search = StackedGridSearchCV(model, grid, cv=2, stack=True, error_score="raise").fit(X, y)
    return search.cv_results_["mean_test_score"], search.predict_proba(X)


def pretrained():
    X, _ = signals()
    model = load_pretrained("midl2024-low-noise")
    return model.predict_proba(X), model.predict_proba(X, class_prior={1: 1, 2: 0, 3: 1e-300, 4: 1})


def streamed():
    X, _ = signals()
    model = ResidualMLPClassifier(width=16, n_blocks=1, max_epochs=2, random_state=0, verbose=False)
    return model.fit_stream(SignalStream(), n_samples=200).predict_proba(X), None


def simulation_trained():
    X, _ = signals()
    model = SimulationTrainedClassifier(
        noise_level=0.001, n_samples=400, n_validation=20, random_state=0, verbose=False,
        network=ResidualMLPClassifier(width=16, n_blocks=1, max_epochs=2),
    ).fit()  # fmt: skip
    return model.predict_proba(X), model.predict_novelty(X)


def compartments():
    X, _ = signals()
    model = CompartmentRegressor(
        noise_level=0.001, n_samples=400, n_validation=20, width=8, n_blocks=1, n_components=1,
        max_epochs=2, n_draws=32, max_rounds=1, novelty=False, random_state=0, verbose=False,
        prior=TissuePrior(n_compartments=(1, 2)),
    ).fit()  # fmt: skip
    return model.predict_proba(X), model.predict(X).to_numpy()


def masked():
    X, y = signals()
    masker = SignalMasker().fit(load_images(X.reshape(6, 5, 4, 64), "ir-se-8x8"))
    rows = masker.transform(load_images(X.reshape(6, 5, 4, 64), "ir-se-8x8"))
    return np.asarray(rows), np.asarray(masker.inverse_transform(y).dataobj)


def spatial():
    X, y = signals()
    model = SpatialClassifier(
        DecisionTreeClassifier(max_depth=3, random_state=0), method="average+field",
        n_neighbors=30, noise_range=(1e-6, 1.0),
    ).fit(X, y)  # fmt: skip
    return model.predict_proba(X.reshape(6, 5, 4, 64)), None


def posterior():
    X, y = signals(8)
    observer = IdealObserverClassifier(
        protocol=PROTOCOL, noise_level=0.02, n_particles=64, n_runs=2, random_state=0,
        verbose=False,
    ).fit(X, y)  # fmt: skip
    found = observer.posterior(X)
    ceiling = accuracy_ceiling(found.run_log_evidence, observer.classes_, y)
    return found.standard_error, ceiling.to_numpy(np.float64)


def stored_pipeline():
    tissue, n_c = TissuePrior.named("midl2024").sample(60, random_state=0, verbose=False)
    pipeline = make_pipeline(
        CorrelationSignalGenerator(random_state=0, verbose=False),
        SignalNormalizer(),
        CorrelationCNNClassifier(protocol="ir-se-8x8", max_epochs=1, random_state=0, verbose=False),
    ).fit(tissue, n_c)
    with tempfile.TemporaryDirectory() as folder:
        save(pipeline, Path(folder) / "model.safetensors")
        loaded = load(Path(folder) / "model.safetensors")
    return pipeline.predict_proba(tissue), loaded.predict_proba(tissue)


MAKERS = {
    CorrelationCNNClassifier: network(
        CorrelationCNNClassifier, protocol="ir-se-8x8", backend="torch", dropout=0.1
    ),
    ResidualMLPClassifier: network(ResidualMLPClassifier, width=16, n_blocks=1),
    ModuleClassifier: network(ModuleClassifier),
    MultiExponentialClassifier: classifier(
        lambda: MultiExponentialClassifier(PROTOCOL, random_state=0, verbose=False), n=8
    ),
    NNLSPeakClassifier: classifier(lambda: NNLSPeakClassifier(PROTOCOL, verbose=False), n=8),
    NNLSSpectrum: transformer(lambda: NNLSSpectrum("ir-se-8x8", n_bins=6, verbose=False)),
    IdealObserverClassifier: classifier(
        lambda: IdealObserverClassifier(
            protocol=PROTOCOL,
            noise_level=0.05,
            n_particles=64,
            n_runs=2,
            random_state=0,
            verbose=False,
        ),
        n=8,
    ),
    ScaledBatchClassifier: classifier(
        lambda: ScaledBatchClassifier(MLPClassifier(max_iter=5, random_state=0))
    ),
    EncodedLabelsClassifier: classifier(
        lambda: EncodedLabelsClassifier(DecisionTreeClassifier(random_state=0))
    ),
    SignalPipeline: classifier(
        lambda: SignalPipeline(
            [("norm", SignalNormalizer()), ("tree", DecisionTreeClassifier(random_state=0))]
        )
    ),
    SimulationTrainedClassifier: simulation_trained,
    CompartmentRegressor: compartments,
    SignalNormalizer: transformer(SignalNormalizer),
    ProtocolAligner: transformer(ProtocolAligner),
    SignalPhaser: transformer(lambda: SignalPhaser(kind="signed", protocol="ir-se-8x8")),
    CorrelationSignalGenerator: generated,
    SignalMasker: masked,
    SpatialClassifier: spatial,
    SignalNoveltyDetector: novelty,
    StackedGridSearchCV: searched,
    "pretrained": pretrained,
    "stored pipeline": stored_pipeline,
    "stream": streamed,
    "posterior": posterior,
    "compiled kernels": network(CorrelationCNNClassifier, protocol="ir-se-8x8"),
    "baseline": classifier(lambda: make_baseline("logistic", random_state=0)),
}
_expected = {}


def expected(of):
    if of not in _expected:
        _expected[of] = MAKERS[of]()
    return _expected[of]


def test_every_public_estimator_is_tested():
    assert set(public_estimators()) <= MAKERS.keys()


@pytest.mark.network
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("of", MAKERS, ids=lambda of: getattr(of, "__name__", of))
def test_settings_leave_the_results_unchanged(of, setting):
    before = expected(of)
    with SETTINGS[setting]():
        found = MAKERS[of]()
    for one, other in zip(before, found, strict=True):
        np.testing.assert_array_equal(one, other)
