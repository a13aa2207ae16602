"""Changed files for every reader: no crash, hang or large memory, and no error but corrsk's own.

    python -m tests.fuzz --mutants 10000              # each reader; prints a table
    python -m tests.fuzz --reader model --seconds 60

Each mutant has a number, from which it is made again: ``--reader model --first 4711 --mutants 1``
prints its traceback. Files are changed as bytes (flipped bits, spans that are removed, repeated or
replaced), and as what they contain (entries of JSON, tensors, with true digests). A reader passes
if it returns an object or refuses the file: by `InvalidFileError`, or a ValueError that corrsk
itself raises. Files with digests must give the object that was saved, or be refused.
"""

from __future__ import annotations

import argparse
import collections
import json
import multiprocessing
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from scipy.io import savemat

from corrsk import (
    AcquisitionProtocol,
    CorrelationCNNClassifier,
    InvalidFileError,
    NNLSPeakClassifier,
    ResidualMLPClassifier,
    SignalNormalizer,
    SignalPipeline,
    load,
    load_dataset,
    load_images,
    make_correlation_signals,
    model_card,
    save,
)
from corrsk._utils.configuration import write_configuration
from corrsk._utils.files import write_json
from corrsk.baselines import make_baseline
from corrsk.evaluation import Evaluation, evaluate
from corrsk.imaging._masks import read_mask
from corrsk.imaging.grid import Grid
from corrsk.persistence._files import _VERSION, _digests
from corrsk.pretrained import ModelCard
from corrsk.simulation.datasets import dataset_definition
from corrsk.simulation.definition import DatasetDefinition
from corrsk.simulation.files import read_dataset_mat, write_dataset
from corrsk.workflows._runs import check_claim
from corrsk.workflows.comparison.runs import Run, RunResult, read_run, write_run
from corrsk.workflows.mapping.spectra import read_spectrum_file
from corrsk.workflows.mapping.statistics import LabelStatistics
from corrsk.workflows.training import TrainingConfiguration, _resumed_samples

SECONDS, MEGABYTES = 5.0, 1000.0  # limits of one file
Change = Callable[[bytes, np.random.Generator], bytes]
_NUMBERS = [0, 1, -1, 2, 7, 255, 10**9, 10**18, -(10**18), 10**39, 1e-300, 1e300, 0.5]
_ODD: list[Any] = [None, True, "", "x", "TI", "9", [], {}, [[]], {"a": 1}, *_NUMBERS]


# -- changes ---------------------------------------------------------------------------


def changed_bytes(content: bytes, rng: np.random.Generator) -> bytes:
    """Content with one or a few changes of its bytes."""
    found = bytearray(content)
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        size = len(found)
        start = int(rng.integers(max(size, 1)))
        span = int(min(rng.choice([1, 2, 4, 8, 64]), size - start))
        match int(rng.integers(7)):
            case 0 | 1:
                if size:
                    found[start] ^= 1 << int(rng.integers(8))
            case 2:
                found[start : start + span] = rng.bytes(span)
            case 3:
                del found[start : start + span]
            case 4:
                found[start:start] = found[start : start + span]
            case 5:
                found[start : start + span] = (b"\x00", b"\xff")[int(rng.integers(2))] * span
            case 6:
                del found[start:]
    return bytes(found)


def changed_value(value: Any, rng: np.random.Generator) -> Any:
    """Plain value with one changed, removed or added entry."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = list(value)[int(rng.integers(len(value)))]
        if rng.random() < 0.05:
            return {name: item for name, item in value.items() if name != key}
        if rng.random() < 0.03:
            return value | {str(rng.choice(["x", "class", "tensor", "dict"])): value[key]}
        return value | {key: changed_value(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.9:
        at = int(rng.integers(len(value)))
        if rng.random() < 0.1:
            return value[:at] + value[at + 1 :]
        return [*value[:at], changed_value(value[at], rng), *value[at + 1 :]]
    if isinstance(value, int | float) and not isinstance(value, bool) and rng.random() < 0.5:
        return value * float(rng.choice([-1, 0, 10, 1e6, 1e-9])) + float(rng.choice([0, 1, -1]))
    return _ODD[int(rng.integers(len(_ODD)))]


def changed_json(content: bytes, rng: np.random.Generator) -> bytes:
    """JSON with one changed entry, or changed bytes."""
    if rng.random() < 0.3:
        return changed_bytes(content, rng)
    return json.dumps(changed_value(json.loads(content), rng)).encode()


# -- readers ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Reader:
    """Reader of a kind of file.

    Parameters
    ----------
    write : callable
        Function that writes a good file to a path.
    read : callable
        Function from the path to an object.
    suffix : str
        Suffix of the file.
    change : callable
        Function from the content and a random generator to another content.
    same : callable, optional
        Plain form of an object, which must be that of the good file if the change is of bytes and
        the file has digests.
    """

    write: Callable[[Path], Any]
    read: Callable[[Path], Any]
    suffix: str
    change: Change = changed_bytes
    same: Callable[[Any], Any] | None = None


def _signals() -> Any:
    return make_correlation_signals(60, random_state=0, verbose=False)


def _write_model(path: Path) -> None:
    network = ResidualMLPClassifier(width=4, n_blocks=1, random_state=0, verbose=False)
    model = SignalPipeline([("norm", SignalNormalizer()), ("network", network)])
    model.fit(*_signals())
    model[-1].partial_fit(*_signals())
    save(model, path)


def small_baseline(name: str) -> Any:
    """Small instance of a baseline with objects of scikit-learn."""
    return make_baseline(name, random_state=0).set_params(**LEARNERS[name])


def _write_learner(name: str) -> Callable[[Path], None]:
    return lambda path: save(small_baseline(name).fit(*_signals()), path)


def _write_counter(path: Path) -> None:
    save(NNLSPeakClassifier("ir-se-8x8", n_bins=8, verbose=False).fit(*_signals()), path)


def _probabilities(model: Any) -> bytes:
    found: bytes = model.predict_proba(_signals()[0][:5]).tobytes()
    return found


def _predict(path: Path) -> bytes:
    """Load a model and predict: what a loaded model refuses, it refuses with a clear error."""
    model = load(path)
    return _probabilities(model) if hasattr(model, "predict_proba") else b""


def changed_model(content: bytes, rng: np.random.Generator, digests: bool = True) -> bytes:
    """Model file with one changed entry or tensor, and true digests."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m"
        path.write_bytes(content)
        with safe_open(path, framework="np") as file:
            plain = json.loads(file.metadata()["corrsk-estimator"])
        tensors = load_file(path)
        if tensors and rng.random() < 0.2:
            name = list(tensors)[int(rng.integers(len(tensors)))]
            tensors[name] = _changed_tensor(tensors[name], rng)
        else:
            plain["estimator"] = changed_value(plain["estimator"], rng)
        if not digests:
            plain["version"] = 5
        text = json.dumps(plain)
        metadata = {"corrsk-estimator": text}
        if digests:
            metadata["digests"] = json.dumps(_digests(text, tensors))
        save_file(tensors, path, metadata=metadata)
        return path.read_bytes()


def _changed_tensor(values: Any, rng: np.random.Generator) -> Any:
    match int(rng.integers(5)):
        case 0:
            with np.errstate(invalid="ignore"):  # integers have no NaN
                return np.full(values.shape, rng.choice([np.nan, np.inf, 1e38])).astype(
                    values.dtype
                )
        case 1:
            return np.ascontiguousarray(values.ravel()[:-1])
        case 2:
            return np.ascontiguousarray(values[None])
        case 3 if values.size:
            changed = values.copy()
            changed.reshape(-1)[rng.integers(values.size)] = rng.choice([0, 1, 3, 127, 255])
            return changed
        case _:
            return values.astype(rng.choice([np.float64, np.int32, np.float16, np.uint8]))


def changed_old_model(content: bytes, rng: np.random.Generator) -> bytes:
    """Model file without digests, with one change."""
    if rng.random() < 0.5:
        return changed_model(content, rng, digests=False)
    return changed_bytes(_without_digests(content), rng)


def _without_digests(content: bytes) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m"
        path.write_bytes(content)
        with safe_open(path, framework="np") as file:
            plain = json.loads(file.metadata()["corrsk-estimator"]) | {"version": 5}
        save_file(load_file(path), path, metadata={"corrsk-estimator": json.dumps(plain)})
        return path.read_bytes()


def _fit_with_checkpoint(path: Path) -> Any:
    network = CorrelationCNNClassifier(
        protocol="ir-se-8x8", max_epochs=1, random_state=0, backend="torch", device="cpu",
        checkpoint=path, verbose=False,
    )  # fmt: skip
    return network.fit(*_signals())


def changed_checkpoint(content: bytes, rng: np.random.Generator) -> bytes:
    """Checkpoint with changed bytes; half of them in the first format, without a digest."""
    return changed_bytes(content if rng.random() < 0.5 else content.partition(b"\n")[2], rng)


_RUN = Run("lda", 200, 0)


def _write_run(path: Path) -> None:
    right = np.arange(50) % 3 > 0
    content = {
        "estimator": "{}", "n_test": 50, "n_failed": 0, "seconds_fit": 0.1, "seconds_predict": 0.1,
        "device": "cpu", "size_bytes": 10, "metrics": {"accuracy": 0.5, "binary_accuracy": 0.5},
        "by_noise_level": {}, "warnings": {}, "environment": {"threads": 1},
    }  # fmt: skip
    write_run(path.parent, RunResult(_RUN, "done", "", content, right, right))
    shutil.copy(path.parent / f"{_RUN.stem}{path.suffix}", path)


def _read_run(path: Path) -> Any:
    shutil.copy(path, path.parent / f"{_RUN.stem}{path.suffix}")
    found = read_run(path.parent, _RUN)
    if found is None:
        raise InvalidFileError("computed again")
    return found


def _write_mat(path: Path) -> None:
    write_dataset(load_dataset("midl2024", 40, verbose=False), path)


def _write_npz(path: Path) -> None:
    np.savez_compressed(
        path, S=np.ones((2, 2, 1, 4)), ti_ms=[50.0, 400, 900, 2000], te_ms=[9.0, 20, 5, 40]
    )


def _write_nifti(path: Path) -> None:
    import nibabel

    values = np.arange(16, dtype=np.float32).reshape(2, 2, 1, 4)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), path)


_TIMES = AcquisitionProtocol({"TI": [50, 400, 900, 2000], "TE": [9, 9, 9, 9]}, tr=5000)


def _read_images(path: Path, times: AcquisitionProtocol | None = _TIMES) -> Any:
    return np.asarray(load_images(path, times).signals)


def _configuration(path: Path) -> None:
    text = "prior: midl2024\nprotocol:\n  grid: {TI: [50, 400], TE: [9, 20], b: [0, 1]}\n"
    text = text.replace(", b: [0, 1]", "")
    path.write_text(
        f"{text}noise: {{snr: [20, 100], reference: max}}\ntraining: {{samples: 20000}}\n"
    )


def _copy_kept(name: str) -> Callable[[Path], Any]:
    """Writer that copies the kept file of a model, so that no model need be fitted."""
    kept = Path(__file__).with_name("files_of_versions") / str(_VERSION) / f"{name}.safetensors"
    return lambda path: shutil.copy(kept, path)


def _write_beside_image(text: str) -> Callable[[Path], None]:
    """Writer of a sidecar or of b-values beside an image, which is read with them."""

    def write(path: Path) -> None:
        _write_nifti(path.with_suffix(".nii"))
        if path.suffix != ".json":
            write_json(path.with_suffix(".json"), {"EchoTime": 0.01})
        path.write_text(text, encoding="utf-8")

    return write


def _read_image_beside(path: Path) -> Any:
    return load_images(path.with_suffix(".nii"))


_GRID = Grid((2, 2, 1), np.eye(4))


def _write_labels(path: Path, highest: int = 3) -> None:
    import nibabel

    values = np.arange(4, dtype=np.int16).clip(0, highest).reshape(_GRID.shape)
    nibabel.save(nibabel.Nifti1Image(values, _GRID.affine), path)


def _write_mask(path: Path) -> None:
    _write_labels(path, highest=1)


def _read_atlas(path: Path) -> Any:
    images = load_images(np.ones((*_GRID.shape, 4)), _TIMES)
    return LabelStatistics(path, images, np.array([1, 2]))


def _read_mask(path: Path) -> Any:
    return read_mask(path, _GRID, "the images")


def _write_npz_with_protocol(path: Path) -> None:
    np.savez_compressed(path, signals=np.ones((2, 2, 1, 4)), protocol=json.dumps(_TIMES.to_dict()))


def _write_spectrum(path: Path) -> None:
    content = {
        "n_bins": 20, "penalty": "identity", "noise_level": 0.01,
        "bounds": {"T2": [5, 500]}, "windows": {"myelin": {"T2": [0, 40]}},
    }  # fmt: skip
    if path.suffix == ".toml":
        path.write_text(
            'n_bins = 20\npenalty = "identity"\nnoise_level = 0.01\n'
            "[bounds]\nT2 = [5, 500]\n[windows.myelin]\nT2 = [0, 40]\n"
        )
    else:
        write_configuration(path, content)


_IDENTITY: dict[str, Any] = {"seed": 0, "definition": {"name": "x", "noise_levels": [0.1]}}


def _read_run_record(path: Path) -> Any:
    """Compare the record of a run with the run that is to be resumed."""
    out = path.parent / "run"
    out.mkdir(exist_ok=True)
    shutil.copy(path, out / "run.json")
    (out / "result").touch()
    try:
        check_claim(out, _IDENTITY, resume=True)
    except FileExistsError as error:  # of another run
        raise InvalidFileError(str(error)) from error


def _write_training_record(path: Path) -> None:
    _configuration(path.with_suffix(".yaml"))
    known = TrainingConfiguration.from_file(path.with_suffix(".yaml"))
    write_json(path, {"configuration": known.identity(), "samples": 20_000})


def _read_training_record(path: Path) -> Any:
    configuration = TrainingConfiguration.from_file(path.with_suffix(".yaml"))
    try:
        return _resumed_samples(configuration, path, True)
    except FileExistsError as error:  # of another training
        raise InvalidFileError(str(error)) from error


# baselines that are stored by way of skops, and their parameters here
LEARNERS: dict[str, dict[str, Any]] = {
    "random-forest": {
        "randomforestclassifier__n_estimators": 2, "randomforestclassifier__max_depth": 3,
    },
    "hist-gradient-boosting": {
        "histgradientboostingclassifier__max_iter": 2,
        "histgradientboostingclassifier__max_leaf_nodes": 4,
    },
    "knn": {"kneighborsclassifier__n_neighbors": 3},
    "qda": {
        "quadraticdiscriminantanalysis__solver": "eigen",
        "quadraticdiscriminantanalysis__shrinkage": 0.5,
    },
    "mlp": {
        "scaledbatchclassifier__estimator__hidden_layer_sizes": (3,),
        "scaledbatchclassifier__estimator__max_iter": 2,
    },
    "kernel-svm": {
        "nystroem__n_components": 20, "calibratedclassifiercv__estimator__max_iter": 2,
    },
}  # fmt: skip
# kept files of models, other than those of readers above
KEPT_MODELS = {
    "regressor": "compartments", "trained": "trained", "spatial": "spatial",
    "spectra": "spectrum", "observer": "observer", "generator": "generator",
    "novelty": "novelty", "phaser": "phaser", "multi-exponential": "multiexponential",
}  # fmt: skip
READERS: dict[str, Reader] = {
    "model": Reader(_write_model, load, ".safetensors", changed_bytes, _probabilities),
    "model, entries": Reader(_write_model, _predict, ".safetensors", changed_model),
    "model of version 5": Reader(_write_model, _predict, ".safetensors", changed_old_model),
    **{
        f"{name}, entries": Reader(
            _write_learner(name), _predict, ".safetensors", changed_model
        )
        for name in LEARNERS
    },
    "model-based, entries": Reader(_write_counter, load, ".safetensors", changed_model),
    "checkpoint": Reader(
        _fit_with_checkpoint, _fit_with_checkpoint, ".checkpoint", changed_checkpoint
    ),
    "run, .json": Reader(_write_run, _read_run, ".json", changed_json),
    "run, .npz": Reader(_write_run, _read_run, ".npz"),
    "model card": Reader(
        model_card("midl2024").to_json, ModelCard.from_json, ".json", changed_json
    ),
    "evaluation": Reader(
        lambda path: evaluate([1, 2, 1], [[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]]).to_json(path),
        Evaluation.from_json, ".json", changed_json,
    ),
    "protocol, .json": Reader(
        _TIMES.to_json, AcquisitionProtocol.from_json, ".json", changed_json
    ),
    "sidecar": Reader(
        lambda path: write_json(path, [{"InversionTime": t, "EchoTime": 0.01} for t in (0.1, 0.9)]),
        AcquisitionProtocol.from_json, ".json", changed_json,
    ),
    "protocol, .mat": Reader(
        lambda path: savemat(path, {"ti": np.array([50.0, 400]), "te": np.array([9.0, 9])}),
        AcquisitionProtocol.from_mat, ".mat",
    ),
    "protocol, .csv": Reader(
        lambda path: path.write_text("TI (s),TE,TR,series\n0.05,9,5000,0\n0.4,9,5000,1\n"),
        AcquisitionProtocol.from_table, ".csv",
    ),
    "data set, .mat": Reader(_write_mat, read_dataset_mat, ".mat"),
    "definition, .json": Reader(
        lambda path: dataset_definition("scanner-ir-se-8x8").to_file(path),
        DatasetDefinition.from_file, ".json", changed_json,
    ),
    "training, .yaml": Reader(_configuration, TrainingConfiguration.from_file, ".yaml"),
    **{
        f"{name}, entries": Reader(_copy_kept(file), load, ".safetensors", changed_model)
        for name, file in KEPT_MODELS.items()
    },
    "definition, .yaml": Reader(
        lambda path: dataset_definition("scanner-ir-se-8x8").to_file(path),
        DatasetDefinition.from_file, ".yaml",
    ),
    "spectrum, .json": Reader(_write_spectrum, read_spectrum_file, ".json", changed_json),
    "spectrum, .yaml": Reader(_write_spectrum, read_spectrum_file, ".yaml"),
    "spectrum, .toml": Reader(_write_spectrum, read_spectrum_file, ".toml"),
    "record of a training": Reader(
        _write_training_record, _read_training_record, ".json", changed_json
    ),
    "record of a run": Reader(
        lambda path: write_json(path, _IDENTITY), _read_run_record, ".json", changed_json
    ),
    "sidecar of an image": Reader(
        _write_beside_image('{"EchoTime": [0.01, 0.02, 0.03, 0.04], "RepetitionTime": 5}'),
        _read_image_beside, ".json", changed_json,
    ),
    "b-values": Reader(_write_beside_image("0 500 1000 2000\n"), _read_image_beside, ".bval"),
    "mask, .nii": Reader(_write_mask, _read_mask, ".nii"),
    "mask, .nii.gz": Reader(_write_mask, _read_mask, ".nii.gz"),
    "atlas, .nii": Reader(_write_labels, _read_atlas, ".nii"),
    "images with a protocol, .npz": Reader(
        _write_npz_with_protocol, lambda path: _read_images(path, None), ".npz"
    ),
    "images, .npz": Reader(_write_npz, lambda path: _read_images(path, None), ".npz"),
    "images, .nii": Reader(_write_nifti, _read_images, ".nii"),
    "images, .nii.gz": Reader(_write_nifti, _read_images, ".nii.gz"),
}  # fmt: skip


# -- runs ------------------------------------------------------------------------------


class Fuzzer:
    """Good file of a reader, and its mutants.

    Parameters
    ----------
    name : str
        Name of the reader.
    folder : Path
        An empty folder.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self.reader = READERS[name]
        self.path = folder / f"file{self.reader.suffix}"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.reader.write(self.path)
            self.content = self.path.read_bytes()
            self.good = self._plain(self.reader.read(self.path))

    def _plain(self, value: Any) -> Any:
        return None if self.reader.same is None else self.reader.same(value)

    def outcome(self, number: int) -> str:
        """Read the mutant of a number; "read", "refused", or a description of the fault."""
        return self.outcome_of(self.reader.change(self.content, np.random.default_rng(number)))

    def outcome_of(self, content: bytes) -> str:
        """Read a file of this content; see `outcome`."""
        self.path.write_bytes(content)
        memory, started = _peak(), time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                found = "read"
                if self._plain(self.reader.read(self.path)) != self.good:
                    found = "CHANGED"
            except InvalidFileError:
                found = "refused"
            except Exception as error:
                found = "refused" if _is_own(error) else f"ERROR {type(error).__name__}: {error}"
                self.error = error
        if time.perf_counter() - started > SECONDS:
            found = f"SLOW, {time.perf_counter() - started:.0f} s"
        if _peak() - memory > MEGABYTES:
            found = f"MEMORY, {_peak() - memory:.0f} MB"
        return found


def _is_own(error: Exception) -> bool:
    """Whether corrsk itself has raised a ValueError."""
    *_, last = traceback.walk_tb(error.__traceback__)
    return isinstance(error, ValueError) and last[0].f_globals["__name__"].startswith("corrsk")


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _work(name: str, numbers: range, seconds: float, results: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        fuzzer = Fuzzer(name, Path(folder))
        until = time.monotonic() + seconds
        for number in numbers:
            results.put((number, "CRASH"))  # replaced by the outcome, if there is one
            signal.alarm(60)
            results.put((number, fuzzer.outcome(number)))
            if time.monotonic() > until:
                break
        results.put((None, ""))


def outcomes(name: str, numbers: range, seconds: float) -> Iterator[tuple[int, str]]:
    """Outcomes of the mutants of a reader, in a process of their own."""
    context = multiprocessing.get_context("spawn")
    while numbers:
        results = context.Queue()
        worker = context.Process(target=_work, args=(name, numbers, seconds, results))
        worker.start()
        pending: tuple[int, str] | None = None
        while True:
            try:
                number, outcome = results.get(timeout=1)
            except Exception:
                if worker.is_alive():
                    continue
                break
            if number is None:
                worker.join()
                return
            if outcome == "CRASH":
                pending = number, outcome
            else:
                pending = None
                yield number, outcome
        if pending is None:
            raise RuntimeError(f"the worker of {name} ended without a result")
        yield pending[0], f"CRASH, exit code {worker.exitcode}"
        numbers = range(pending[0] + 1, numbers.stop)


def main() -> int:
    """Run the readers, print a table, and return the number of faults."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--reader", choices=READERS, action="append")
    parser.add_argument("--mutants", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    given = parser.parse_args()
    if given.mutants == 1:
        with tempfile.TemporaryDirectory() as folder:
            fuzzer = Fuzzer(given.reader[0], Path(folder))
            print(fuzzer.outcome(given.first))
            if hasattr(fuzzer, "error"):
                traceback.print_exception(fuzzer.error)
        return 0
    print(f"{'reader':20} {'mutants':>8} {'read':>8} {'refused':>8} {'faults':>7}")
    n_faults = 0
    for name in given.reader or READERS:
        counts: collections.Counter[str] = collections.Counter()
        faults: dict[str, list[int]] = {}
        numbers = range(given.first, given.first + given.mutants)
        for number, outcome in outcomes(name, numbers, given.seconds):
            kind = outcome if outcome in ("read", "refused") else "fault"
            counts[kind] += 1
            if kind == "fault":
                faults.setdefault(outcome[:110], []).append(number)
        print(
            f"{name:20} {counts.total():8} {counts['read']:8} {counts['refused']:8} "
            f"{counts['fault']:7}", flush=True,
        )  # fmt: skip
        for outcome, found in faults.items():
            print(f"    {len(found)} x {outcome} (such as {found[0]})", flush=True)
        n_faults += counts["fault"]
    return min(n_faults, 1)


if __name__ == "__main__":
    sys.exit(main())
