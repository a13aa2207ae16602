"""Bitwise comparison of results with those of another commit.

    python benchmarks/unchanged.py 37fdaa2

Checks out the other commit into a temporary folder and runs one probe in both trees: data sets
and streams of a seed, predictions of the shipped models and of the model-based methods, weights
of trainings, and files written by the other commit (saved models, checkpoints of interrupted
trainings, folders of results), which this tree must read and resume. Prints a line for each
result and exits with 1 if any result differs. Takes about two minutes.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import inspect
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]


def digest(*arrays: Any) -> str:
    """Digest of the bytes, types and shapes of arrays."""
    found = hashlib.blake2b(digest_size=8)
    for array in arrays:
        values = np.ascontiguousarray(array)
        found.update(f"{values.dtype.str}{values.shape}".encode())
        found.update(values.data)
    return found.hexdigest()


# -- the probe, which runs in either tree -----------------------------------------------


def first_of(*names: str) -> Any:
    """Import the first of several modules that exists: names changed between commits."""
    for name in names:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError:
            continue
    raise ModuleNotFoundError(names)


def known_parameter(function: Callable[..., Any], *names: str) -> str:
    """Return the first of several names that is a parameter of a function."""
    parameters = inspect.signature(function).parameters
    return next(name for name in names if name in parameters)


def results_of_a_seed() -> Iterator[tuple[str, str]]:
    """Yield digests of data sets, streams, predictions and weights."""
    import corrsk

    for name in ("midl2024", "midl2024-low-noise", "t1t2-detr"):
        data = corrsk.load_dataset(name, 20_000, 3, verbose=False)
        yield (
            f"data set {name}",
            digest(
                data.data, data.target, data.noise_level, data.tissue.to_numpy(),
                data.train_indices, data.validation_indices, data.test_indices,
            ),
        )  # fmt: skip
        stream = corrsk.SignalStream.named(name, random_state=4)
        yield f"stream {name}", digest(*stream.draw(0, 5000), *stream.draw(7, 300))
        # the model of signals with M0 = 1 had the name of the data set, and answered at any scale
        known_m0 = "t1t2-detr-m0" if "t1t2-detr-m0" in corrsk.pretrained_names() else "t1t2-detr"
        model = corrsk.load_pretrained(known_m0 if name == "t1t2-detr" else name)
        X = data.data[:2000]
        scaled = X[::-1] * (1.0 if name == "t1t2-detr" else 3.0)
        yield (
            f"shipped model of the data set {name}",
            digest(model.predict_proba(X), model.predict_proba(scaled)),
        )
    diffusion = corrsk.AcquisitionProtocol.from_grid(te=[10, 40, 90], b=[0, 0.5, 2])
    ranges = {
        "T2": corrsk.PropertyRange(10, 300, scale="log"), "D": corrsk.PropertyRange(0.2, 3),
    }  # fmt: skip
    for law in ("dirichlet", "normalized-uniform", "equal"):
        prior = corrsk.TissuePrior(ranges, (1, 2, 3), fraction_law=law, with_replacement=False)
        X, y, levels, tissue = corrsk.make_correlation_signals(
            3000, prior=prior, protocol=diffusion, noise_level=(0.02, 0.1), noise_reference="rms",
            noise_distribution="rician", random_state=1, return_tissue=True, verbose=False,
        )  # fmt: skip
        yield f"signals of T2-D, {law}", digest(X, y, levels, tissue.to_numpy())
    tissue, _ = corrsk.TissuePrior.named("midl2024", with_replacement=False).sample(
        5000, 2, verbose=False
    )
    scattered = corrsk.AcquisitionProtocol(
        ti=[50, 60, 900, 900, 2000, 70], te=[5, 50, 5, 9, 70, 100], tr=3000
    ).in_grid_order()
    generator = corrsk.CorrelationSignalGenerator(
        scattered, noise_level=corrsk.SNRRange(20, 90), noise_reference="max",
        inversion_efficiency=0.9, random_state=5, verbose=False,
    )  # fmt: skip
    yield "scattered protocol", digest(generator.fit_transform(tissue), generator.transform(tissue))
    yield from relaxometry()
    yield from trainings()


def relaxometry() -> Iterator[tuple[str, str]]:
    """Yield digests of the predictions of the model-based methods."""
    import corrsk

    X, y = corrsk.make_correlation_signals(300, noise_level=0.002, random_state=6, verbose=False)
    bounds = {"T1": (50, 5000), "T2": (5, 500)}  # the defaults of earlier versions
    for criterion in ("aicc", "bic", "f-test"):
        fitted = corrsk.MultiExponentialClassifier(
            bounds=bounds, criterion=criterion, random_state=0, verbose=False
        ).fit(X, y)
        yield f"multi-exponential, {criterion}", digest(fitted.predict_proba(X[:100]))
    nnls = corrsk.NNLSPeakClassifier(n_bins=16, bounds=bounds, verbose=False).fit(X, y)
    yield "NNLS spectra", digest(nnls.predict_proba(X[:60]), nnls.spectra(X[:20]))
    observer = corrsk.IdealObserverClassifier(
        noise_level=(0.01, 0.05), n_particles=512, n_runs=2, random_state=0, verbose=False
    ).fit(X, y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Bayes' rule alone: `predict_proba` also has signals that no tissue explains
        yield "ideal observer", digest(observer.posterior(X[:6]).probabilities)
        detr = corrsk.IdealObserverClassifier(
            "t1t2-detr", corrsk.AcquisitionProtocol.named("ir-se-8x8-tr20s"),
            corrsk.SNRRange(30, 150), "max",
            **no_norm(corrsk.IdealObserverClassifier),
            n_particles=512, n_runs=2, random_state=0, verbose=False,
        ).fit(X[y < 4], y[y < 4])  # fmt: skip
        yield "ideal observer of t1t2-detr", digest(detr.posterior(X[:4]).probabilities)
    detector = corrsk.SignalNoveltyDetector(n_clusters=8, random_state=0, verbose=False)
    many, _ = corrsk.make_correlation_signals(4000, random_state=7, verbose=False)
    yield "novelty detector", digest(detector.fit(many).score_samples(X))
    comparison = corrsk.compare_protocols("ir-se-8x8", "ir-se-8x8-tr20s")
    yield "comparison of protocols", f"{comparison.verdict} {comparison.largest_difference!r}"


def no_norm(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the argument that disables the normalisation."""
    name = known_parameter(function, "norm", "normalize")
    return {name: None if name == "norm" else False}


def trainings() -> Iterator[tuple[str, str]]:
    """Yield digests of the weights after short trainings."""
    import corrsk

    CNN = corrsk.CorrelationCNNClassifier
    backend = known_parameter(CNN, "backend", "kernel")
    compiled = {backend: "numba" if backend == "backend" else "compiled"}
    data = corrsk.load_dataset("midl2024-low-noise", 4000, 8, verbose=False)
    train, held_out = data.train_indices, data.validation_indices
    arrays = data.data[train], data.target[train]
    validation = {"X_val": data.data[held_out], "y_val": data.target[held_out]}
    common = {"random_state": 0, "verbose": False, "device": "cpu", "max_epochs": 3}

    def weights(model: Any) -> str:
        parts = [t.numpy() for t in model.net_.module_.state_dict().values()]
        return digest(*parts, [row["train_loss"] for row in model.history_])

    yield "CNN, torch", weights(CNN(**common, **{backend: "torch"}).fit(*arrays, **validation))
    yield "CNN, numba", weights(CNN(**common, **compiled, dropout=0.1).fit(*arrays, **validation))
    recipe = CNN.from_recipe("paper", **common | {"max_epochs": 2, "class_weight": "balanced"})
    yield "the paper's training", weights(recipe.fit(*arrays))
    held = CNN(**common, validation_fraction=0.2, n_iter_no_change=1, grid_shape=(8, 8))
    yield "early stopping", weights(held.fit(*arrays))
    # the CNN's class trained this network too, before it had one of its own
    MLP = getattr(corrsk, "ResidualMLPClassifier", CNN)
    mlp = MLP.from_recipe("residual-mlp", **common | {"max_epochs": 2, "width": 32})
    yield "residual MLP", weights(mlp.fit(*arrays, **validation))
    stream = corrsk.SignalStream.named("midl2024-low-noise", random_state=1)
    yield "residual MLP on a stream", weights(mlp.fit_stream(stream, 6000))
    further = CNN(**common, **{backend: "torch"})
    for part in (slice(0, 900), slice(900, 2000)):
        further.partial_fit(arrays[0][part], arrays[1][part])
    yield "partial_fit", weights(further)


# -- files, written by the other commit and read by both trees ----------------------------


def slow_stream(*, interrupted: bool) -> Any:
    """Create a stream whose training writes a checkpoint, and stops after it if `interrupted`."""
    import corrsk

    class SlowStream(corrsk.SignalStream):
        def draw(self, chunk: int, n_samples: int, **options: Any) -> Any:
            if interrupted and chunk == 2:
                time.sleep(10.5)  # longer than the least time between two checkpoints
            if interrupted and chunk == 3:
                raise KeyboardInterrupt
            return super().draw(chunk, n_samples, **options)

    return SlowStream(random_state=2)


def cut_off(folder: Path) -> Any:
    """Create a classifier with a checkpoint in the folder."""
    import corrsk

    MLP = getattr(corrsk, "ResidualMLPClassifier", corrsk.CorrelationCNNClassifier)
    return MLP.from_recipe(
        "residual-mlp", max_epochs=5, width=16, random_state=0, verbose=False,
        checkpoint=folder / "stream.checkpoint",
    )  # fmt: skip


def finished(folder: Path) -> tuple[Any, ...]:
    """Create a classifier with a checkpoint of arrays in the folder, and its training arrays."""
    import corrsk

    data = corrsk.load_dataset("midl2024", 1500, 9, verbose=False)
    model = corrsk.CorrelationCNNClassifier(
        max_epochs=2, random_state=0, verbose=False, checkpoint=folder / "arrays.checkpoint",
        class_weight={1: 2.0, 2: 1.0, 3: 1.0, 4: 1.0},
    )  # fmt: skip
    return model, data.data[:1000], data.target[:1000], data.data[1000:], data.target[1000:]


def workflow_calls(folder: Path) -> tuple[Any, Any]:
    """Run or resume the reproduction and the comparison in the folder."""
    comparison = first_of("corrsk.workflows.comparison", "corrsk.comparison")
    reproduction = first_of("corrsk.workflows.reproduction", "corrsk.reproduction")
    size = known_parameter(reproduction.Configuration, "n_samples", "samples")
    configuration = reproduction.Configuration(**{size: 2000}, epochs=1)
    quiet: Any = {"say": lambda line: None}
    if "say" not in inspect.signature(reproduction.reproduce).parameters:
        quiet = {}
    evaluation = reproduction.reproduce(
        configuration, folder / "reproduction", resume=True, device="cpu", **quiet
    )
    settings = comparison.ComparisonSettings(
        models=("cnn", "residual-mlp", "lda", "multi-exponential"), train_sizes=(200,),
        **{size: 1000, known_parameter(
            comparison.ComparisonSettings, "n_test_samples", "test_samples"): 50},
    )  # fmt: skip
    compared = comparison.compare(settings, folder / "comparison", resume=True, device="cpu")
    return evaluation, compared


def write_files(folder: Path) -> None:
    """Write the files of the other commit."""
    import corrsk

    try:
        cut_off(folder).fit_stream(slow_stream(interrupted=True), 5 * 2000)
    except KeyboardInterrupt:
        pass
    else:
        raise AssertionError("the training was not interrupted")
    model, X, y, X_val, y_val = finished(folder)
    corrsk.save(model.fit(X, y, X_val=X_val, y_val=y_val), folder / "cnn.safetensors")
    prior = corrsk.TissuePrior.named("t1t2-detr")
    tissue, n_c = prior.sample(300, 0, verbose=False)
    from sklearn.pipeline import make_pipeline

    pipeline = make_pipeline(
        corrsk.CorrelationSignalGenerator(noise_level=0.01, random_state=0),
        corrsk.SignalNormalizer("max"),
        corrsk.CorrelationCNNClassifier.from_recipe(
            "residual-mlp", max_epochs=1, width=8, random_state=0
        ),
    )
    corrsk.save(pipeline.fit(tissue, n_c), folder / "pipeline.safetensors")
    workflow_calls(folder)


def results_of_files(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield results from the files."""
    import corrsk

    model = cut_off(folder).fit_stream(slow_stream(interrupted=False), 5 * 2000)
    parts = [t.numpy() for t in model.net_.module_.state_dict().values()]
    rows = [row["train_loss"] for row in model.history_]
    yield "a stream's training, cut off and resumed", digest(*parts, rows)
    model, X, y, X_val, y_val = finished(folder)
    model.fit(X, y, X_val=X_val, y_val=y_val)
    # the history of the same training is that of the file, including the seconds
    yield "a checkpoint of arrays", json.dumps(model.history_)
    loaded = corrsk.load(folder / "cnn.safetensors")
    yield "a saved classifier", digest(loaded.predict_proba(X), loaded.class_prior_)
    pipeline = corrsk.load(folder / "pipeline.safetensors")
    tissue, _ = corrsk.TissuePrior.named("t1t2-detr").sample(100, 1, verbose=False)
    yield "a saved Pipeline", digest(pipeline.predict_proba(tissue))
    evaluation, compared = workflow_calls(folder)
    kept = ("accuracy", "binary_accuracy", "log_loss", "calibration_error")
    yield "a folder of the experiment", json.dumps([evaluation.metrics[name] for name in kept])
    results = compared.results.sort_values(["model", "n_train"])
    shown = results[["model", "status", "accuracy", "seconds_fit", "seconds_predict"]]
    yield "a folder of the comparison", shown.to_json()


# -- both trees ---------------------------------------------------------------------------


def probe(stage: str, folder: str) -> None:
    """Run one stage in this process; print its results as JSON."""
    # an editable installation would mix modules of this tree with those of the other
    sys.meta_path[:] = [f for f in sys.meta_path if "editable" not in repr(f).lower()]
    if stage == "write":
        write_files(Path(folder))
        return
    stages = {"seed": results_of_a_seed, "files": lambda: results_of_files(Path(folder))}
    print("RESULTS " + json.dumps(dict(stages[stage]())))


def run(tree: Path, stage: str, folder: Path) -> dict[str, str]:
    """Run a stage with the code of a tree, and return its results."""
    # the probe of this tree, with the package of the given one
    command = [sys.executable, str(Path(__file__).resolve()), "--probe", stage, str(folder)]
    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": str(tree)}, cwd=folder,
        stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULTS ")]
    return json.loads(lines[-1].removeprefix("RESULTS ")) if lines else {}


def compare_with(revision: str) -> bool:
    """Print the differences from a commit; return whether there are none."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        other = folder / "other"
        subprocess.run(["git", "clone", "-q", "--no-checkout", ROOT, other], check=True)
        subprocess.run(["git", "-C", other, "checkout", "-q", revision], check=True)
        work = {tree: folder / tree for tree in ("before", "after")}
        work["before"].mkdir()
        run(other, "write", work["before"])
        shutil.copytree(work["before"], work["after"])
        results = {
            tree: run(source, "seed", work[tree]) | run(source, "files", work[tree])
            for tree, source in (("before", other), ("after", ROOT))
        }
    same = True
    for result in results["before"] | results["after"]:
        before, after = (results[tree].get(result) for tree in ("before", "after"))
        same &= before == after
        print(f"{'same' if before == after else 'CHANGED':8}{result}")
        if before != after:
            print(f"        before: {before}\n        after:  {after}")
    return same


def main() -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("revision", nargs="?", default="HEAD", help="commit to compare with")
    parser.add_argument("--probe", nargs=2, metavar=("STAGE", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.probe:
        probe(*arguments.probe)
        return 0
    return 0 if compare_with(arguments.revision) else 1


if __name__ == "__main__":
    sys.exit(main())
