"""Threads of torch: the parameter n_jobs, forked processes, and how threads wait."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import joblib
import numpy as np
import pytest
import torch
from torch import nn

from corrsk import (
    CorrelationCNNClassifier,
    ModuleClassifier,
    ResidualMLPClassifier,
    load,
    make_correlation_signals,
    save,
)
from corrsk.neural.training.device import limited_threads

CAN_FORK = "fork" in multiprocessing.get_all_start_methods()


class Counting(nn.Module):
    """Linear network that records the number of threads of each forward pass."""

    seen: list[int] = []

    def __init__(self, width=1):
        super().__init__()
        self.lift = nn.Linear(64, width)
        self.head = nn.Linear(width, 4)

    def forward(self, x):
        Counting.seen.append(torch.get_num_threads())
        return self.head(self.lift(x))


@pytest.fixture
def three_threads():
    with limited_threads(3):
        yield


@pytest.fixture(scope="module")
def data():
    return make_correlation_signals(200, random_state=0, verbose=False)


def threads_of(call):
    Counting.seen.clear()
    call()
    (n_threads,) = set(Counting.seen)
    return n_threads


def counting(width=1, **parameters):
    return ModuleClassifier(
        Counting(width), max_epochs=1, random_state=0, verbose=False, **parameters
    )


@pytest.mark.parametrize(("n_jobs", "expected"), [(None, 1), (1, 1), (2, 2)])
def test_small_work_has_one_thread_and_n_jobs_sets_another_number(
    three_threads, data, n_jobs, expected
):
    X, y = data
    model = counting(n_jobs=n_jobs)
    assert threads_of(lambda: model.fit(X, y)) == expected
    assert threads_of(lambda: model.partial_fit(X, y)) == expected
    assert threads_of(lambda: model.predict_proba(X)) == expected
    assert torch.get_num_threads() == 3


@pytest.mark.parametrize(("n_jobs", "expected"), [(None, 3), (1, 1), (2, 2)])
def test_large_work_has_the_threads_of_torch(three_threads, data, n_jobs, expected):
    X, y = data
    model = counting(width=10_000, batch_size=100, n_jobs=n_jobs).fit(X, y)
    assert threads_of(lambda: model.partial_fit(X, y)) == expected
    many = np.tile(X, (10, 1))
    assert threads_of(lambda: model.predict_proba(many)) == expected


@pytest.mark.parametrize("call", ["fit", "partial_fit"])
def test_the_limit_of_one_thread_is_not_that_of_a_thread_that_starts_later(data, call):
    X, y = data
    model = counting(width=10_000, batch_size=100, input_scaling=None)
    before = torch.get_num_threads()
    begun, ended = threading.Event(), threading.Event()

    def limited():
        with limited_threads(1):  # such as that of compiled kernels
            begun.set()
            ended.wait(60)

    torch.set_num_threads(3)
    try:
        with ThreadPoolExecutor(2) as pool:
            pool.submit(limited)
            assert begun.wait(60)
            seen = pool.submit(threads_of, lambda: getattr(model, call)(X, y)).result()
            ended.set()
    finally:
        ended.set()
        torch.set_num_threads(before)
    assert seen == 3


def test_n_jobs_counts_also_in_a_worker(data):
    model = counting(n_jobs=2)
    with joblib.parallel_config("threading", n_jobs=2):
        joblib.Parallel()(joblib.delayed(model.fit)(*data) for _ in range(1))
        seen = joblib.Parallel()(
            joblib.delayed(threads_of)(lambda: model.predict(data[0])) for _ in range(1)
        )
    assert seen == [2]


def test_n_jobs_zero_is_refused_before_the_training(data):
    with pytest.raises(ValueError, match="n_jobs must be"):
        counting(n_jobs=0).fit(*data)


@pytest.mark.parametrize("cls", [CorrelationCNNClassifier, ResidualMLPClassifier])
def test_a_checkpoint_is_valid_for_any_number_of_threads(cls, data, tmp_path):
    parameters = {"max_epochs": 2, "random_state": 0, "verbose": False, "backend": "torch"}
    if cls is CorrelationCNNClassifier:
        parameters["protocol"] = "ir-se-8x8"
    path = tmp_path / "training.checkpoint"
    first = cls(**parameters, checkpoint=path, n_jobs=1).fit(*data)
    resumed = cls(**parameters, checkpoint=path, n_jobs=2).fit(*data)
    assert resumed.history_ == first.history_  # with the times of the first training


def test_n_jobs_is_saved(data, tmp_path):
    model = CorrelationCNNClassifier(
        protocol="ir-se-8x8", max_epochs=1, random_state=0, verbose=False, n_jobs=1
    )
    save(model.fit(*data), tmp_path / "model.safetensors")
    assert load(tmp_path / "model.safetensors").n_jobs == 1


IN_FORKED_PROCESSES = """
import multiprocessing, sys, warnings
import numpy as np, torch
from corrsk import *

warnings.simplefilter("ignore")  # Python warns of forks of a process with threads
X, y = make_correlation_signals(300, random_state=0, verbose=False)
many = np.tile(X, (10, 1))
model = load_pretrained("midl2024")
assert torch.get_num_threads() == 2
used = sys.argv[1] == "used"
if used:  # the parent has threads already
    model.predict_proba(many)

def child(k):
    model.predict_proba(many)
    small = {"max_epochs": 1, "verbose": False}
    CorrelationCNNClassifier(protocol="ir-se-8x8", backend="torch", n_jobs=2, **small).fit(X, y)
    ResidualMLPClassifier(max_epochs=1, verbose=False).fit(X, y)
    return model.predict_proba(X)

class Voxels(torch.utils.data.Dataset):
    def __len__(self):
        return 2
    def __getitem__(self, k):
        return child(k)

with multiprocessing.get_context("fork").Pool(2) as pool:
    found = pool.map(child, range(2))
loader = torch.utils.data.DataLoader(
    Voxels(), num_workers=1, batch_size=None, multiprocessing_context="fork"
)
found += [np.asarray(probabilities) for probabilities in loader]
model[-1].n_jobs = 1
assert all((probabilities == model.predict_proba(X)).all() for probabilities in found)
assert torch.get_num_threads() == 2
print("all", len(found))
"""


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.skipif(not CAN_FORK, reason="this system cannot fork processes")
@pytest.mark.parametrize("threads", ["unused", "used"])
def test_forked_processes_predict_and_train(threads):
    result = subprocess.run(
        [sys.executable, "-c", IN_FORKED_PROCESSES, threads],
        env=os.environ | {"OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert result.stdout.split() == ["all", "4"], result.stderr


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the report of libgomp")
@pytest.mark.parametrize(
    ("given", "first", "expected"),
    [
        ({}, "", True),
        ({"OMP_WAIT_POLICY": "active"}, "", False),
        ({"GOMP_SPINCOUNT": "1000"}, "", False),
        ({}, "import torch;", False),
    ],
)
def test_threads_wait_passively_unless_the_user_decides(given, first, expected):
    names = ("OMP_WAIT_POLICY", "KMP_BLOCKTIME", "GOMP_SPINCOUNT", "KMP_LIBRARY")
    env = {name: value for name, value in os.environ.items() if name not in names}
    script = f"{first}import os; before = dict(os.environ); import corrsk.neural;"
    result = subprocess.run(
        [sys.executable, "-c", f"{script} print(dict(os.environ) == before)"],
        env=env | given | {"OMP_DISPLAY_ENV": "verbose"}, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert result.stdout.split()[-1] == "True"  # processes of the user inherit no variable
    assert ("GOMP_SPINCOUNT = '0'" in result.stderr) == expected
