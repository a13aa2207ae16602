"""Parallel searches: equal scores, shared cores, shared data, cached simulations."""

from __future__ import annotations

import os
import sys
import threading
import uuid
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.model_selection import (
    GridSearchCV,
    HalvingRandomSearchCV,
    RandomizedSearchCV,
    cross_validate,
)
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import Pipeline, make_pipeline

from corrsk import (
    CorrelationCNNClassifier,
    CorrelationSignalGenerator,
    SignalNormalizer,
    TissuePrior,
    make_correlation_signals,
)
from corrsk._utils.parallel import effective_n_jobs, in_worker
from corrsk.neural.cpu.step import CompiledGradients
from corrsk.neural.networks import CorrelationCNN
from corrsk.neural.training.device import limited_threads, share_of_threads

pytestmark = pytest.mark.slow

RATES = {"correlationcnnclassifier__learning_rate": [0.001, 0.003, 0.01, 0.03]}
NOISE_AND_RATES = {
    "correlationsignalgenerator__noise_level": [0.001, 0.05],
    "correlationcnnclassifier__learning_rate": [0.001, 0.01],
}


@pytest.fixture(scope="module")
def table():
    return TissuePrior.named("midl2024").sample(900, random_state=0)


def cnn_pipeline() -> Pipeline:
    return make_pipeline(
        CorrelationSignalGenerator(noise_level=0.001, random_state=0),
        SignalNormalizer(),
        CorrelationCNNClassifier(protocol="ir-se-8x8", max_epochs=1, random_state=0),
    )


def halving(resource: str, **options) -> HalvingRandomSearchCV:
    low, high = (300, 900) if resource == "n_samples" else (1, 2)
    return HalvingRandomSearchCV(
        cnn_pipeline(), RATES, resource=resource, min_resources=low, max_resources=high,
        n_candidates=4, factor=2, cv=3, random_state=0, **options,
    )  # fmt: skip


SEARCHES = {
    "grid": lambda **options: GridSearchCV(cnn_pipeline(), NOISE_AND_RATES, cv=3, **options),
    "random": lambda **options: RandomizedSearchCV(
        cnn_pipeline(), RATES, n_iter=2, cv=3, random_state=0, **options
    ),
    "halving over epochs": lambda **options: halving(
        "correlationcnnclassifier__max_epochs", **options
    ),
    "halving over voxels": lambda **options: halving("n_samples", **options),
}


def scores(search) -> dict[str, np.ndarray]:
    found = {key: value for key, value in search.cv_results_.items() if "test_score" in key}
    assert len(found) > 3
    return found


@pytest.mark.parametrize("kind", SEARCHES)
def test_a_parallel_search_gives_the_scores_of_a_serial_search(kind, table):
    with limited_threads(1):  # as many as in each worker, because sums depend on the number
        serial = SEARCHES[kind](n_jobs=1).fit(*table)
        with joblib.parallel_config("loky", inner_max_num_threads=1):
            parallel = SEARCHES[kind](n_jobs=2).fit(*table)
    for key, values in scores(serial).items():
        np.testing.assert_array_equal(scores(parallel)[key], values, err_msg=key)
    assert parallel.best_params_ == serial.best_params_


# -- memory ------------------------------------------------------------------


class SeesSearchData(GaussianNB):
    """Classifier that records whether the data of its search are in a memory map."""

    def fit(self, X, y):
        frame = sys._getframe()
        while frame.f_code.co_name != "_fit_and_score":
            frame = frame.f_back
        data = frame.f_locals["X"]
        self.mapped_ = [is_mapped(block.values) for block in data._mgr.blocks]
        self.pid_ = os.getpid()
        return super().fit(X, y)


def is_mapped(array) -> bool:
    while isinstance(array, np.ndarray) and not isinstance(array, np.memmap):
        array = array.base
    return isinstance(array, np.memmap)


@pytest.mark.parametrize(("n_voxels", "mapped"), [(20_000, True), (2000, False)])
def test_workers_share_a_tissue_table_of_more_than_a_megabyte(n_voxels, mapped):
    tissue, n_c = TissuePrior.named("midl2024").sample(n_voxels, random_state=0)
    assert (tissue.memory_usage().sum() > 2**20) == mapped
    few_rows = [(np.arange(i, 200 + i), np.arange(300, 400)) for i in range(4)]
    with joblib.parallel_config("loky", inner_max_num_threads=1):
        models = cross_validate(
            make_pipeline(CorrelationSignalGenerator(random_state=0), SeesSearchData()),
            tissue, n_c, cv=few_rows, n_jobs=2, return_estimator=True,
        )["estimator"]  # fmt: skip
    assert all(model[-1].mapped_ == [mapped] for model in models)
    assert os.getpid() not in {model[-1].pid_ for model in models}


class LoggedGenerator(CorrelationSignalGenerator):
    """Generator that writes a file for every simulation of training signals."""

    log: Path

    def fit_transform(self, X, y=None):
        (self.log / uuid.uuid4().hex).touch()
        return super().fit_transform(X, y)


@pytest.fixture
def logged(tmp_path, monkeypatch):
    """Pipelines with and without cache, and a function that counts simulations."""
    monkeypatch.setattr(LoggedGenerator, "log", tmp_path / "log", raising=False)
    LoggedGenerator.log.mkdir()

    def pipeline(memory=None) -> Pipeline:
        generator = LoggedGenerator(noise_level=0.01, random_state=0)
        return Pipeline([("simulate", generator), ("fit", GaussianNB())], memory=memory)

    cached = pipeline(joblib.Memory(tmp_path / "cache", verbose=0))
    return cached, pipeline(), lambda: len(list(LoggedGenerator.log.iterdir()))


def test_cached_simulations_run_once_per_fold(logged, table):
    cached, plain, count = logged
    grid = {"fit__var_smoothing": [1e-9, 1e-3, 0.1]}
    search = GridSearchCV(cached, grid, cv=2).fit(*table)
    assert count() == 3  # two folds, and all data for the final fit
    expected = GridSearchCV(plain, grid, cv=2).fit(*table)
    assert count() == 3 + 3 * 2 + 1
    for key, values in scores(expected).items():
        np.testing.assert_array_equal(scores(search)[key], values)
    GridSearchCV(cached, {"fit__var_smoothing": [1.0]}, cv=2).fit(*table)
    assert count() == 10  # from the cache, also in a later search


@pytest.mark.parametrize("change", [{"simulate__noise_level": 0.05}, {"simulate__random_state": 1}])
def test_other_noise_is_not_read_from_the_cache(change, logged, table):
    cached, plain, count = logged
    before = cached.fit(*table)[-1].theta_
    after = cached.set_params(**change).fit(*table)[-1].theta_
    assert count() == 2
    assert not np.array_equal(before, after)
    np.testing.assert_array_equal(after, plain.set_params(**change).fit(*table)[-1].theta_)


def test_a_cache_reuses_noise_without_a_seed(logged, table):
    """Expected, but a trap: fits that should differ are equal."""
    cached, plain, _ = logged
    cached.set_params(simulate__random_state=None)
    plain.set_params(simulate__random_state=None)
    first, second = (cached.fit(*table)[-1].theta_ for _ in range(2))
    np.testing.assert_array_equal(first, second)
    first, second = (plain.fit(*table)[-1].theta_ for _ in range(2))
    assert not np.array_equal(first, second)


# -- threads -----------------------------------------------------------------


def share() -> tuple[bool, int, int]:
    with share_of_threads():
        return in_worker(), effective_n_jobs(None), torch.get_num_threads()


@pytest.mark.parametrize(
    ("backend", "options", "expected"),
    [
        ("loky", {"inner_max_num_threads": 1}, 1),
        ("loky", {"inner_max_num_threads": 3}, 3),
        ("threading", {}, 1),
        ("multiprocessing", {}, 1),
    ],
)
# joblib's multiprocessing backend forks; newer Pythons warn about it
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_worker_uses_its_share_of_the_cores(backend, options, expected, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    with limited_threads(4), joblib.parallel_config(backend, **options):
        seen = joblib.Parallel(n_jobs=2)(joblib.delayed(share)() for _ in range(4))
        alone = joblib.Parallel(n_jobs=1)(joblib.delayed(share)() for _ in range(1))
    # torch's default is never more threads than cores
    assert set(seen) <= {(True, expected, threads) for threads in range(1, expected + 1)}
    assert alone == [(False, joblib.cpu_count(), 4)]  # not a worker: all cores


@pytest.mark.parametrize("backend", ["torch", "auto"])
def test_a_network_in_a_worker_thread_uses_one_thread(table, monkeypatch, backend):
    counts = set()
    forward, step = CorrelationCNN.forward, CompiledGradients.__call__
    pipeline = cnn_pipeline().set_params(correlationcnnclassifier__backend=backend)

    def counting_forward(self, x):
        counts.add((self.training, torch.get_num_threads()))
        return forward(self, x)

    def counting_step(self, X, y, weight=None):
        counts.add((True, self._n_threads))
        return step(self, X, y, weight)

    # small work would have one thread in any case
    monkeypatch.setattr("corrsk.neural.training.settings.SMALL_STEP", 0)
    monkeypatch.setattr("corrsk.neural._base.SMALL_PREDICTION", 0)
    monkeypatch.setattr(CorrelationCNN, "forward", counting_forward)
    monkeypatch.setattr(CompiledGradients, "__call__", counting_step)
    with limited_threads(2):
        with joblib.parallel_config("threading"):
            cross_validate(pipeline, *table, cv=2, n_jobs=2)
        assert counts == {(True, 1), (False, 1)}
        counts.clear()
        pipeline.fit(*(part[:60] for part in table))  # unchanged outside
        assert counts == {(True, 2)}


@pytest.fixture
def three_threads():
    """Set torch to three threads, in this thread and in new ones."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_overlapping_thread_limits_restore_the_number_of_threads(three_threads):
    """The limit of the second thread starts during that of the first."""
    second_began, first_ended = threading.Event(), threading.Event()
    seen = {}

    def second():
        with limited_threads(1):
            second_began.set()
            assert first_ended.wait(30)
        seen["second"] = torch.get_num_threads()

    def newcomer():
        seen["newcomer"] = torch.get_num_threads()

    def first():
        thread = threading.Thread(target=second)
        with limited_threads(1):
            thread.start()
            assert second_began.wait(30)
        first_ended.set()
        thread.join()

    for work in (first, newcomer):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    seen["this"] = torch.get_num_threads()
    assert seen == {"second": 3, "newcomer": 3, "this": 3}


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_fits_in_threads_are_bit_identical_to_serial_fits(dropout):
    X, y = make_correlation_signals(400, random_state=0)

    def fitted(seed: int) -> np.ndarray:
        model = CorrelationCNNClassifier(
            protocol="ir-se-8x8", max_epochs=4, dropout=dropout, random_state=seed
        )
        return model.fit(X, y).predict_proba(X)

    with limited_threads(1):
        one_by_one = [fitted(seed) for seed in range(4)]
    state = torch.get_rng_state()
    with joblib.parallel_config("threading"):
        for _ in range(3):
            together = joblib.Parallel(n_jobs=4)(joblib.delayed(fitted)(s) for s in range(4))
            np.testing.assert_array_equal(together, one_by_one)
    assert torch.equal(torch.get_rng_state(), state)  # the user's random state is unchanged
