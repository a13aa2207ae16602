"""Maps of subjects on a dask cluster of two processes; one is killed."""

from __future__ import annotations

import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

from corrsk import AcquisitionProtocol, make_correlation_signals
from corrsk.cli.app import app

nibabel = pytest.importorskip("nibabel")
pytest.importorskip("skimage")
distributed = pytest.importorskip("distributed")

PATIENCE = 120  # seconds
SUBJECTS = ("01", "02", "03")


def run(*arguments):
    return CliRunner().invoke(app, ["map", *map(str, arguments)])


@pytest.fixture
def raw(tmp_path):
    """Three subjects, each a file of 64 volumes."""
    AcquisitionProtocol.named("ir-se-8x8").to_json(tmp_path / "times.json")
    for k, subject in enumerate(SUBJECTS):
        signals, _ = make_correlation_signals(60, norm=None, noise_level=0.01, random_state=k)
        values = (500 * signals.reshape(5, 4, 3, 64)).astype(np.float32)
        image = nibabel.Nifti1Image(values, np.diag([2.0, 2, 3, 1]))
        nibabel.save(image, tmp_path / f"sub-{subject}.nii.gz")
    return tmp_path


def sources(raw):
    return [item for subject in SUBJECTS for item in ("-i", raw / f"sub-{subject}.nii.gz")]


def wait_first(folder, marker):
    """Make every map of a worker wait, after a file that marks its start."""
    from corrsk.workflows.mapping import networks

    def compute(self, signals):
        (folder / marker).touch()
        time.sleep(PATIENCE)

    networks.NetworkMapper.compute = compute


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no SIGKILL")
def test_subjects_of_a_killed_worker_are_mapped_by_another(raw, tmp_path):
    arguments = [*sources(raw), "--times", raw / "times.json", "--model", "midl2024"]
    here, there = tmp_path / "here", tmp_path / "there"
    assert run(*arguments, "-o", here).exit_code == 0
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=":0", silence_logs=50
        ) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        victim, number = next(iter(client.run(os.getpid).items()))
        client.run(wait_first, tmp_path, "started", workers=[victim])

        def kill():
            end = time.monotonic() + PATIENCE
            while not (tmp_path / "started").exists() and time.monotonic() < end:
                time.sleep(0.05)
            os.kill(number, signal.SIGKILL)

        with ThreadPoolExecutor(1) as executor:
            killing = executor.submit(kill)
            result = run(*arguments, "-o", there, "--dask", cluster.scheduler_address)
            killing.result(PATIENCE)
    assert result.exit_code == 0, result.output
    for path in here.rglob("*.nii.gz"):
        assert (there / path.relative_to(here)).read_bytes() == path.read_bytes()
    assert not list(there.rglob(".*"))
    for subject in SUBJECTS:
        name = f"sub-{subject}"
        records = [json.loads((out / name / "report.json").read_text()) for out in (here, there)]
        for key in ("sources", "model", "maps", "mask", "warnings", "protocol"):
            assert records[0][key] == records[1][key]
        assert f"{name}: mapped 60 voxels" in result.output


def test_an_address_without_a_scheduler_is_refused(raw, tmp_path, monkeypatch):
    monkeypatch.setattr("corrsk.workflows.mapping.cluster._PATIENCE", 0.2)
    for address in ("tcp://127.0.0.1:9", "nonsense://x", "127.0.0.1"):
        result = run(
            *sources(raw), "-o", tmp_path / "out", "--times", raw / "times.json", "--dask", address
        )
        assert result.exit_code == 1
        assert f"Error: no dask scheduler answers at {address}" in result.output
        assert not (tmp_path / "out").exists()


def test_a_subject_that_kills_its_workers_is_an_error_in_one_sentence(raw, tmp_path, monkeypatch):
    killed = distributed.KilledWorker("task", SimpleNamespace(address="tcp://lost"), 4)

    def lost(client, work, tasks, *, verbose):
        for name, arguments in tasks.items():
            yield name, killed if name == "sub-02" else work(*arguments)

    monkeypatch.setattr("corrsk.workflows.mapping.run.on_workers", lost)
    monkeypatch.setattr("corrsk.cli.map.nullcontext", lambda: nullcontext("client"))
    out = tmp_path / "out"
    result = run(
        *sources(raw), "-o", out, "--times", raw / "times.json", "--model", "midl2024"
    )  # fmt: skip
    assert result.exit_code == 1
    text = " ".join(result.output.split())
    assert "1 of 3 subjects failed, the others are complete: sub-02 (KilledWorker: " in text
    assert sorted(path.name for path in out.iterdir()) == ["run.json", "sub-01", "sub-03"]
