"""Comparison of models: complete, interrupted, resumed, with failing models and killed workers."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import psutil
import pytest
from rich.console import Console
from sklearn.pipeline import make_pipeline
from typer.testing import CliRunner

from corrsk import AcquisitionProtocol, load_dataset
from corrsk.cli.app import app
from corrsk.evaluation import known_ceiling, mcnemar_test
from corrsk.simulation.datasets import DATASETS, dataset_definition, simulate_dataset
from corrsk.workflows.comparison import MODELS, ComparedModel, ComparisonSettings, compare, figures
from corrsk.workflows.comparison import worker as worker_module
from corrsk.workflows.comparison.models import BuildOptions
from corrsk.workflows.comparison.runs import Run, fingerprint, read_run, train_and_judge
from corrsk.workflows.comparison.settings import about
from corrsk.workflows.comparison.tables import best_rows, readable, summary_frame
from corrsk.workflows.comparison.worker import RunContext, Worker, _serve
from tests._helpers import ROOT

pytestmark = pytest.mark.slow

SETTINGS = ComparisonSettings(
    "midl2024-low-noise", ("logistic", "lda", "nnls"), (200, 1000), n_seeds=2, n_samples=2000,
    n_test_samples=150,
)  # fmt: skip
QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Folder of a small comparison, which runs once."""
    out = tmp_path_factory.mktemp("comparison") / "out"
    return out, compare(SETTINGS, out, n_jobs=1, console=QUIET)


def test_comparison_writes_all_files(finished):
    out, _ = finished
    assert {path.name for path in out.iterdir()} == {
        "run.json", "commands.json", "cells",
        "results.csv", "summary.csv", "noise.csv", "summary.json",
        "report.md", "report.html", "learning_curves.png", "accuracy_over_noise.png",
    }  # fmt: skip
    page = (out / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 2
    # self-contained, without external resources
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    report = (out / "report.md").read_text(encoding="utf-8")
    assert "corrsk compare --dataset midl2024-low-noise --models logistic,lda,nnls" in report
    assert json.loads((out / "summary.json").read_text())["run"]["environment"]["threads"] == "1"


def test_one_row_per_run_and_one_per_model_and_size(finished):
    _, comparison = finished
    keys = list(comparison.results[["model", "n_train", "seed"]].itertuples(index=False, name=None))
    learners = [(m, n, s) for n in (200, 1000) for s in (0, 1) for m in ("logistic", "lda")]
    assert keys == [*learners, ("nnls", 0, 0), ("nnls", 0, 1)]
    assert (comparison.results["status"] == "done").all()
    summary = comparison.summary
    assert list(summary["model"]) == ["logistic", "logistic", "lda", "lda", "nnls"]
    assert (summary["n_test"] == 300).all()
    assert (summary["size_bytes"] > 100).all()
    assert (summary["accuracy_low"] < summary["accuracy"]).all()
    assert (summary["accuracy"] < summary["accuracy_high"]).all()
    # means over the seeds
    ours = comparison.results.query("model == 'lda' and n_train == 1000")
    assert summary.loc[3, "accuracy"] == pytest.approx(ours["accuracy"].mean())
    assert comparison.noise.groupby(["model", "n_train"]).size().eq(5).all()


def test_a_run_equals_the_same_fit_without_the_comparison(finished):
    out, _ = finished
    data = load_dataset("midl2024-low-noise", 2000, random_state=1)
    model = MODELS["lda"].make(BuildOptions(data.protocol, 1))
    train, test = data.train_indices[:1000], data.test_indices[:150]
    right = model.fit(data.data[train], data.target[train]).predict(data.data[test])
    right = right == data.target[test]
    kept = read_run(out / "cells", Run("lda", 1000, 1))
    np.testing.assert_array_equal(kept.right, right)
    assert kept.content["metrics"]["accuracy"] == pytest.approx(right.mean())
    assert kept.content["n_test"] == 150


@pytest.mark.parametrize("name", ["nnls", "multi-exponential"])
def test_model_based_methods_have_the_ranges_of_the_data(name):
    options = BuildOptions.from_definition(dataset_definition("midl2024"), 0)
    spans = {name: (range_.low, range_.high) for name, range_ in options.bounds.items()}
    assert spans == {"T1": (50, 5000), "T2": (5, 500)}
    assert MODELS[name].make(options)[-1].bounds == options.bounds
    # these were the default bounds of the first stored runs, which stay valid
    plain = replace(options, bounds=None)
    assert fingerprint(MODELS[name], options) == fingerprint(MODELS[name], plain)
    other = BuildOptions.from_definition(dataset_definition("t1t2-detr"), 0)
    assert fingerprint(MODELS[name], other) != fingerprint(
        MODELS[name], replace(other, bounds=None)
    )


@pytest.fixture(scope="module")
def resumed(finished):
    """Runs before and after a second call, without one run and with another one changed.

    The second call has one more model.
    """
    out, _ = finished
    cells = {path: path.stat().st_mtime_ns for path in (out / "cells").glob("*.json")}
    lost, changed = (out / "cells" / f"lda_{name}.json" for name in ("n1000_seed1", "n200_seed0"))
    lost.unlink()
    content = json.loads(changed.read_text())
    # as the first version wrote it, without digest
    del content["digest"]
    changed.write_text(json.dumps(content | {"estimator": "{}"}))
    written = cells | {changed: changed.stat().st_mtime_ns}
    more = replace(SETTINGS, models=("logistic", "lda", "knn", "nnls"))
    again = compare(more, out, n_jobs=1, console=QUIET, resume=True)
    now = {path: path.stat().st_mtime_ns for path in cells}
    repeated = {path for path in cells if now[path] != written[path]}
    return again, repeated, lost, changed, content


def test_a_second_call_repeats_only_missing_and_changed_runs(finished, resumed):
    out, first = finished
    again, repeated, lost, changed, _ = resumed
    assert repeated == {lost, changed}
    with pytest.raises(FileExistsError, match="--resume"):
        compare(SETTINGS, out, n_jobs=1, console=QUIET)
    for metric in ("accuracy", "binary_accuracy", "log_loss"):
        old = first.summary.set_index(["model", "n_train"])[metric]
        new = again.summary.set_index(["model", "n_train"])[metric]
        np.testing.assert_array_equal(new.loc[old.index], old)
    # more models and sizes may be added
    assert ("knn", 1000) in again.summary.set_index(["model", "n_train"]).index
    # a call with fewer models reports all results, with their commands
    less = compare(
        replace(SETTINGS, models=("lda",), train_sizes=(200,)), out, console=QUIET, resume=True
    )
    assert len(less.results) == len(again.results)
    report = (out / "report.md").read_text(encoding="utf-8")
    assert report.count("    corrsk compare --dataset midl2024-low-noise") == 3


def test_a_run_with_other_parameters_is_repeated(resumed):
    _, repeated, _, changed, content = resumed
    assert '"lineardiscriminantanalysis__solver": "\'svd\'"' in content["estimator"]
    assert changed in repeated
    assert json.loads(changed.read_text())["estimator"] == content["estimator"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"dataset": "midl2024"}, "dataset was 'midl2024-low-noise' and is 'midl2024'"),
        ({"n_samples": 3000}, "samples was 2000 and is 3000"),
        ({"n_test_samples": None}, "test_samples was 150 and is None"),
        (
            {"protocol": AcquisitionProtocol.from_grid(ti=[50, 900], te=[9, 80])},
            "protocol.TI differs",
        ),
    ],
)
def test_a_folder_of_another_configuration_is_refused(finished, change, named):
    with pytest.raises(FileExistsError, match=named):
        compare(replace(SETTINGS, **change), finished[0], resume=True, console=QUIET)


def test_bad_requests_are_errors_before_any_run(tmp_path):
    bad = {
        "unknown model 'svm'; known models: cnn, residual-mlp": {"models": ("svm",)},
        "training size of 1,500 is larger .* 1,400 are for training": {"train_sizes": (1500,)},
        "at least 50": {"train_sizes": (10,)},
        "train_sizes must not be empty": {"train_sizes": ()},
        "models must not be empty": {"models": ()},
        "known data sets": {"dataset": "midl"},
    }
    for message, change in bad.items():
        with pytest.raises(ValueError, match=message):
            compare(replace(SETTINGS, **change), tmp_path / "out", console=QUIET)
    assert not (tmp_path / "out").exists()
    result = CliRunner().invoke(app, ["compare", "--train-sizes", "1e3", "--out", str(tmp_path)])
    assert result.exit_code == 1
    assert "--train-sizes must be integers" in result.output


def test_the_cnn_takes_a_single_series():
    protocol = AcquisitionProtocol(te=[10, 20, 40, 80, 120, 160, 240, 320])
    definition = ComparisonSettings("midl2024", protocol=protocol).definition
    assert MODELS["cnn"].obstacle(definition.protocol) is None
    data = simulate_dataset(definition, 1000, 0)
    options = BuildOptions.from_definition(definition, 0)
    result = train_and_judge(Run("cnn", 500, 0), data, options, 50)
    assert result.status == "done"
    assert 0 < result.content["metrics"]["accuracy"] < 1


def test_a_model_that_cannot_run_is_a_row_with_the_reason(tmp_path, monkeypatch):
    monkeypatch.setitem(MODELS, "lda", replace(MODELS["lda"], max_train=500))
    rng = np.random.default_rng(0)
    protocol = AcquisitionProtocol(ti=rng.uniform(50, 3000, 20), te=rng.uniform(5, 200, 20))
    settings = ComparisonSettings(
        "midl2024", ("cnn", "lda", "qda"), (500, 600), n_samples=1000, n_test_samples=50,
        protocol=protocol,
    )  # fmt: skip
    comparison = compare(settings, tmp_path / "out", n_jobs=1, console=QUIET)
    notes = comparison.summary.set_index(["model", "n_train"])["note"]
    assert "skipped: the 20 measurements of the protocol are no full grid" in notes["cnn", 500]
    assert (
        "skipped: the training takes long beyond 500 signals; pass --no-limits to include it"
        in notes["lda", 600]
    )
    assert notes["lda", 500] == notes["qda", 600] == ""
    assert np.isnan(comparison.summary["accuracy_mcnemar_p"]).all()  # there is no CNN
    assert "no full grid" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


@contextlib.contextmanager
def interrupts_as_before():
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def context_for(folder, n_samples=1000):
    return RunContext(dataset_definition("midl2024"), n_samples, n_samples, 1, "cpu", folder)


class _Broken:
    def fit(self, X, y):
        raise FloatingPointError("too hot | for\nthis table")

    def get_params(self):
        return {}


def test_a_model_that_fails_is_a_row_with_its_error(tmp_path, monkeypatch):
    broken = ComparedModel("broken", "fails", "learner", lambda task: _Broken())
    monkeypatch.setitem(MODELS, "broken", broken)
    ours, theirs = multiprocessing.Pipe()
    for name in ("broken", "lda"):
        ours.send(Run(name, 200, 0))
    monkeypatch.setattr(worker_module, "_die_with_the_parent", lambda: None)
    with interrupts_as_before():
        # the code of the worker process, which ends when there are no more runs
        monkeypatch.setattr(theirs.__class__, "recv", _until_empty(theirs.__class__.recv))
        _serve(theirs, context_for(tmp_path))
    monkeypatch.undo()
    assert ours.recv() == "ready"
    failed, done = ours.recv(), ours.recv()
    assert failed.status == "failed"
    assert failed.reason == "FloatingPointError: too hot | for\nthis table"
    assert "in fit" in failed.content["traceback"]
    assert done.status == "done"
    assert done.content["environment"]["threads"] == 1
    monkeypatch.setitem(MODELS, "broken", broken)
    rows = readable(best_rows(summary_frame([failed, done]))).set_index("model")
    # one line, without characters that split a Markdown table cell
    shown = rows.loc["broken", "count accuracy"]
    assert shown == "failed: FloatingPointError: too hot / for"
    monkeypatch.undo()


def _until_empty(receive):
    def recv(self):
        if not self.poll():
            raise EOFError
        return receive(self)

    return recv


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_a_killed_worker_affects_only_its_run(tmp_path):
    with Worker(context_for(tmp_path)) as worker:

        def kill():
            if worker._process.is_alive():
                os.kill(worker._process.pid, signal.SIGKILL)

        assert worker.run(Run("lda", 600, 0), tick=lambda: None).status == "done"
        died = worker.run(Run("cnn", 700, 0), tick=kill)
        assert died.status == "failed"
        assert "SIGKILL (often due to lack of memory)" in died.reason
        assert worker.run(Run("lda", 700, 0), tick=lambda: None).status == "done"
        # an idle worker that is killed has no effect
        worker._process.kill()
        worker._process.join()
        assert worker.run(Run("lda", 500, 0), tick=lambda: None).status == "done"
        last = worker._process
    assert not last.is_alive()


@pytest.mark.filterwarnings("ignore:the stored result .* is damaged:UserWarning")
def test_a_failed_or_damaged_run_is_repeated(finished, tmp_path):
    cell = Run("lda", 200, 0)
    assert read_run(tmp_path, cell) is None
    table, answers = (tmp_path / f"{cell.stem}{suffix}" for suffix in (".json", ".npz"))
    for whole in (table, answers):
        shutil.copy(finished[0] / "cells" / whole.name, whole)
    assert read_run(tmp_path, cell) is not None
    text, content = table.read_text(), answers.read_bytes()
    for damaged in ("", "{}", text.replace('"done"', '"failed"'), "[]"):
        table.write_text(damaged)
        assert read_run(tmp_path, cell) is None
    table.write_text(text)
    for broken in (b"", content[:100], None):
        answers.unlink()
        if broken is not None:
            answers.write_bytes(broken)
        assert read_run(tmp_path, cell) is None


STAND_ALONE = """
from corrsk.workflows.comparison import ComparisonSettings, compare
settings = ComparisonSettings(models=("lda",), train_sizes=(100,), n_samples=1000)
compare(settings, {out!r}, n_jobs=1)
"""


def test_a_script_without_a_main_guard_gives_a_clear_error(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(STAND_ALONE.format(out=str(tmp_path / "out")))
    result = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "needs a main guard: if __name__ == '__main__'" in result.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_no_worker_survives_a_killed_parent(tmp_path):
    out = tmp_path / "out"
    command = [
        sys.executable, "-m", "corrsk.cli", "compare", "--models", "lda,cnn",
        "--train-sizes", "2000", "--samples", "3000", "--test-samples", "100",
        "--out", str(out), "--jobs", "1", "--device", "cpu",
    ]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    # the first CNN takes seconds
    until(lambda: (out / "cells" / "lda_n2000_seed0.json").exists())
    (worker,) = worker_processes(process)
    process.kill()
    process.wait(timeout=60)
    until(lambda: has_ended(worker))


def worker_processes(parent):
    children = psutil.Process(parent.pid).children()
    return [child for child in children if "spawn_main" in str(child.cmdline())]


def has_ended(process):
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def until(happened, seconds=120):
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)


class _AnswersEverySecond:
    classes_ = np.array([1, 2, 3, 4])

    def fit(self, X, y):
        return self

    def predict_proba(self, X):
        probabilities = np.tile([0.0, 1.0, 0.0, 0.0], (len(X), 1))
        probabilities[::2] = np.nan
        return probabilities

    def get_params(self):
        return {}


def test_a_checkpoint_with_other_parameters_is_not_used(tmp_path):
    context = context_for(tmp_path)
    data = load_dataset("midl2024", 1000, random_state=0)
    name = context.options(Run("cnn", 500, 0), data).checkpoint.name
    assert name.startswith("cnn_n500_seed0-")
    other = replace(MODELS["cnn"], make=MODELS["lda"].make)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODELS, "cnn", other)
        assert context.options(Run("cnn", 500, 0), data).checkpoint.name != name


def test_the_size_of_a_model_does_not_depend_on_the_name_of_the_folder(tmp_path):
    definition = dataset_definition("midl2024")
    data = simulate_dataset(definition, 300, 0)
    sizes = set()
    for name in ("a", "a" * 100):
        (tmp_path / name).mkdir()
        options = replace(
            BuildOptions.from_definition(definition, 0),
            checkpoint=tmp_path / name / "run.checkpoint", device="cpu",
        )  # fmt: skip
        result = train_and_judge(Run("cnn", 100, 0), data, options, 20)
        sizes.add(result.content["size_bytes"])
    assert len(sizes) == 1


def test_voxels_without_result_are_counted(monkeypatch):
    half = ComparedModel("half", "", "model-based", lambda task: _AnswersEverySecond())
    monkeypatch.setitem(MODELS, "half", half)
    data = load_dataset("midl2024", 1000, random_state=0)
    result = train_and_judge(Run("half", 0, 0), data, BuildOptions(data.protocol, 0), 100)
    y = data.target[data.test_indices]
    assert result.content["n_failed"] == 50
    # a guess: equal probabilities give class 1, and "more than one"
    guess = np.where(np.arange(100) % 2, 2, 1)
    np.testing.assert_array_equal(result.right, guess == y)
    np.testing.assert_array_equal(result.right_binary, y > 1)


def test_mcnemar_against_the_cnn(tmp_path):
    settings = ComparisonSettings(
        "midl2024-low-noise", ("cnn", "lda"), (700,), n_seeds=2, n_samples=1000
    )
    out = tmp_path / "out"
    comparison = compare(settings, out, n_jobs=1, console=QUIET)
    pairs = {
        name: np.concatenate(
            [read_run(out / "cells", Run(name, 700, seed)).right_binary for seed in (0, 1)]
        )
        for name in ("cnn", "lda")
    }
    row = comparison.summary.set_index("model").loc["lda"]
    expected = mcnemar_test(pairs["lda"], pairs["cnn"]).p_value
    assert 0 <= expected < 1
    assert row["binary_accuracy_mcnemar_p"] == expected
    assert row["vs_cnn_seeds"] == 2
    difference = pairs["lda"].mean() - pairs["cnn"].mean()
    assert row["binary_accuracy_vs_cnn"] == pytest.approx(difference)
    assert row["binary_accuracy_vs_cnn_low"] < difference < row["binary_accuracy_vs_cnn_high"]
    assert not list((out / "cells").glob("*.checkpoint"))


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGINT to send")
def test_a_run_interrupted_by_ctrl_c_is_resumed(tmp_path):
    """A real interrupt of a real process leaves a report; resuming runs only the rest."""
    out = tmp_path / "out"
    command = [
        sys.executable, "-m", "corrsk.cli", "compare", "--models", "lda,logistic,cnn",
        "--train-sizes", "500,2000", "--samples", "3000", "--test-samples", "100",
        "--out", str(out), "--jobs", "1", "--device", "cpu",
    ]  # fmt: skip
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        # a test run in the background of a script inherits an ignored SIGINT
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    first = out / "cells" / "lda_n500_seed0.json"  # the first CNN alone takes seconds
    until(first.exists)
    (worker,) = worker_processes(process)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "--resume resumes" in errors
    until(lambda: has_ended(worker))
    assert "Traceback" not in errors
    assert "Stopped early" in (out / "report.md").read_text(encoding="utf-8")
    written = first.stat().st_mtime_ns
    shorter = [part if part != "lda,logistic,cnn" else "lda,logistic" for part in command[3:]]
    result = CliRunner().invoke(app, [*shorter, "--resume"])
    assert result.exit_code == 0, result.output
    assert first.stat().st_mtime_ns == written
    assert "Stopped early" not in (out / "report.md").read_text(encoding="utf-8")


def test_the_models_are_listed():
    result = CliRunner().invoke(app, ["compare", "--list"])
    assert result.exit_code == 0
    assert all(name in result.output for name in MODELS)


def test_every_model_supports_any_grid():
    protocol = AcquisitionProtocol.from_grid(te=[10, 20, 40, 80, 120], b=[0, 0.5, 1, 2])
    for model in MODELS.values():
        if model.obstacle(protocol) is None:
            built = model.make(BuildOptions(protocol, 0))
            assert isinstance(built, type(make_pipeline(None)))


def test_the_figures_show_the_ceiling(finished, monkeypatch):
    _, comparison = finished
    ceiling = pd.DataFrame({
        "noise_level": [np.nan, 0.001, 0.005], "n_signals": [20, 10, 10],
        "accuracy": [0.65, 0.75, 0.55], "binary_accuracy": [0.91, 0.96, 0.86],
        "accuracy_low": [0.6, 0.7, 0.5], "accuracy_high": [0.7, 0.8, 0.6],
        "binary_accuracy_low": [0.9, 0.95, 0.85], "binary_accuracy_high": [0.92, 0.97, 0.87],
    })  # fmt: skip
    monkeypatch.setattr(figures, "known_ceiling", lambda name: ceiling if name == "known" else None)
    for dataset, shown in (("known", 1), ("unknown", 0)):
        curves = figures.plot_learning_curves(comparison.summary, dataset=dataset)
        noise = figures.plot_accuracy_over_noise(
            comparison.noise, comparison.summary, dataset=dataset
        )
        for ax in [*curves.axes, *noise.axes]:
            lines = [line for line in ax.lines if line.get_label() == figures.CEILING]
            assert len(lines) == shown
        legend = [text.get_text() for text in curves.legends[0].get_texts()]
        assert legend.count(figures.CEILING) == shown
    curves = figures.plot_learning_curves(comparison.summary, dataset="known")
    (line,) = [line for line in curves.axes[0].lines if line.get_label() == figures.CEILING]
    np.testing.assert_allclose(line.get_ydata(), 65)


def test_figures_of_two_classes_and_of_an_snr(finished):
    _, comparison = finished
    summary, noise = comparison.summary.copy(), comparison.noise.copy()
    for end in ("", "_low", "_high"):
        summary[f"binary_accuracy{end}"] = summary[f"accuracy{end}"]
    assert len(figures.plot_learning_curves(comparison.summary, dataset="any").axes) == 4
    assert len(figures.plot_learning_curves(summary, dataset="any").axes) == 2
    assert len(figures.plot_accuracy_over_noise(noise, comparison.summary, dataset="any").axes) == 2
    (ax,) = figures.plot_accuracy_over_noise(noise, summary, dataset="any", noise_unit="snr").axes
    assert ax.get_xlabel().startswith("SNR")
    shown = [text.get_text() for text in ax.get_xticklabels()]
    assert shown == ["1000", "500", "333", "250", "200"]


def test_data_of_a_definition_are_in_grid_order():
    grid = AcquisitionProtocol.from_grid(ti=[50, 900], te=[10, 40])
    scan = AcquisitionProtocol({name: values[::-1] for name, values in grid.contrasts.items()})
    definition = replace(dataset_definition("midl2024"), name="mine", protocol=scan)
    for settings in (
        ComparisonSettings(dataset=definition),
        ComparisonSettings(dataset="midl2024", protocol=scan),
    ):
        assert settings.definition.protocol.feature_names == grid.feature_names
    options = BuildOptions.from_definition(ComparisonSettings(dataset=definition).definition, 0)
    assert options.protocol.feature_names == grid.feature_names


def test_a_report_describes_a_protocol_in_words():
    protocol = AcquisitionProtocol.from_grid(ti=[50, 900], te=[9, 80], tr=4000)
    text = about(replace(SETTINGS, protocol=protocol))
    assert "on the protocol 2 TI x 2 TE: TI 50..900 ms, TE 9..80 ms, TR 4000 ms for each" in text


def test_known_ceilings_equal_those_of_the_benchmark():
    folder = ROOT / "benchmarks" / "results" / "ceiling"
    named = [name for name in DATASETS if (folder / f"{name}.json").exists()]
    assert {"midl2024", "midl2024-low-noise", "t1t2-detr"} <= set(named)
    for name in named:
        table = known_ceiling(name)
        record = json.loads((folder / f"{name}.json").read_text())
        overall = record["ceilings (%)"]["all"]
        for task, metric in (("count", "accuracy"), ("multicompartment", "binary_accuracy")):
            low, best, high = table.loc[0, [f"{metric}_low", metric, f"{metric}_high"]]
            assert 100 * best == pytest.approx(overall[task]["corrected"], abs=0.01)
            assert 100 * low == pytest.approx(overall[task]["cross_fitted"], abs=0.01)
            assert 100 * high == pytest.approx(overall[task]["upper"], abs=0.01)
            assert low <= high
        assert table["n_signals"][0] == record["n_signals"] >= 1000
    for name in (*DATASETS.keys() - set(named), "brain"):
        assert known_ceiling(name) is None
