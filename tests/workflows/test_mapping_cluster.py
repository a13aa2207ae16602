"""Maps of subjects on a dask cluster of two processes; one is killed."""

from __future__ import annotations

import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
from typer.testing import CliRunner

from corrsk import AcquisitionProtocol, make_correlation_signals
from corrsk.cli.app import app
from corrsk.workflows.mapping import MapSettings, find_subjects, map_subjects, networks
from corrsk.workflows.mapping import run as run_module
from corrsk.workflows.mapping.cluster import in_order

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


@pytest.fixture(scope="module")
def cluster():
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=":0", silence_logs=50
    ) as found:
        yield found


def wait_first(folder, marker):
    """Make every map of a worker wait, after a file that marks its start."""
    from corrsk.workflows.mapping import networks

    def compute(self, signals):
        (folder / marker).touch()
        time.sleep(PATIENCE)

    networks.NetworkMapper.compute = compute


def die_once(folder):
    """Let the first worker that computes its third slab kill itself there."""
    from corrsk.workflows.mapping import networks

    whole, slabs = networks.NetworkMapper.compute, []

    def compute(self, slab):
        (folder / f"worker-{os.getpid()}").touch()
        time.sleep(0.2)  # so that no worker is done with all slabs before the other one begins
        slabs.append(slab)
        if len(slabs) == 3:
            with suppress(FileExistsError):
                (folder / "killed").touch(exist_ok=False)
                os.kill(os.getpid(), signal.SIGKILL)
        return whole(self, slab)

    networks.NetworkMapper.compute = compute


@contextmanager
def first_worker_killed(client, folder):
    """Kill a worker of a cluster when it has begun to compute maps."""
    victim, number = next(iter(client.run(os.getpid).items()))
    client.run(wait_first, folder, "started", workers=[victim])

    def kill():
        end = time.monotonic() + PATIENCE
        while not (folder / "started").exists() and time.monotonic() < end:
            time.sleep(0.05)
        os.kill(number, signal.SIGKILL)

    with ThreadPoolExecutor(1) as executor:
        killing = executor.submit(kill)
        yield
        killing.result(PATIENCE)


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no SIGKILL")
def test_subjects_of_a_killed_worker_are_mapped_by_another(raw, tmp_path, cluster):
    arguments = [*sources(raw), "--times", raw / "times.json", "--model", "midl2024"]
    here, there = tmp_path / "here", tmp_path / "there"
    assert run(*arguments, "-o", here).exit_code == 0
    with (
        distributed.Client(cluster, set_as_default=False) as client,
        first_worker_killed(client, tmp_path),
    ):
        result = run(*arguments, "-o", there, "--dask", cluster.scheduler_address)
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


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no SIGKILL")
def test_slabs_of_a_killed_worker_are_mapped_by_another(tmp_path, cluster):
    """One subject, whose slabs are those of two workers."""
    signals, _ = make_correlation_signals(240, norm=None, noise_level=0.01, random_state=0)
    values = (500 * signals.reshape(5, 4, 12, 64)).astype(np.float32)
    values[:, :, 5] = 0  # a slab without voxels
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / "scan.nii.gz")
    atlas = np.arange(240).reshape(5, 4, 12) % 3
    nibabel.save(nibabel.Nifti1Image(atlas.astype(np.uint8), np.eye(4)), tmp_path / "atlas.nii")
    subjects = find_subjects(tmp_path / "scan.nii.gz", times="ir-se-8x8")
    settings = MapSettings("midl2024", atlas=tmp_path / "atlas.nii", preview=True, slab_bytes=6_000)
    here, there = tmp_path / "here", tmp_path / "there"
    (local,) = map_subjects(subjects, here, settings, n_jobs=1, verbose=False)
    with (
        distributed.Client(cluster, set_as_default=False) as client,
        first_worker_killed(client, tmp_path),
    ):
        (record,) = map_subjects(subjects, there, settings, n_jobs=1, client=client, verbose=False)
    names = sorted(path.name for path in here.iterdir() if path.name != "report.json")
    assert {"preview.png", "statistics.tsv", "labels.nii.gz"} <= set(names)
    assert sorted(path.name for path in there.iterdir()) == sorted([*names, "report.json"])
    for name in names:
        assert (there / name).read_bytes() == (here / name).read_bytes(), name
    for key in ("sources", "model", "maps", "mask", "warnings", "settings", "digests"):
        assert record[key] == local[key]


@pytest.mark.network
def test_an_error_in_a_slab_leaves_no_file(raw, tmp_path, monkeypatch):
    """Workers are threads of this process, so that they can be made to fail."""
    subjects = find_subjects(raw / "sub-01.nii.gz", times="ir-se-8x8")
    settings = MapSettings("midl2024", slab_bytes=6_000)
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=False, dashboard_address=":0"
        ) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        whole, slabs = networks.NetworkMapper.compute, []

        def compute(self, slab):
            slabs.append(slab)
            if len(slabs) == 2:
                raise ValueError("the second slab is damaged")
            return whole(self, slab)

        monkeypatch.setattr(networks.NetworkMapper, "compute", compute)
        with pytest.raises(ValueError, match="the second slab is damaged"):
            map_subjects(subjects, tmp_path / "out", settings, client=client, verbose=False)
        assert not (tmp_path / "out").exists()
        monkeypatch.undo()
        (record,) = map_subjects(subjects, tmp_path / "out", settings, client=client, verbose=False)
        assert record["mask"]["n_voxels"] == 60


class Client:
    """Client of three workers that run a task when its result is fetched."""

    def __init__(self):
        self.waiting, self.most, self.cancelled = 0, 0, []

    def nthreads(self):
        return {"a": 1, "b": 1, "c": 1}

    def submit(self, work, *arguments, pure):
        self.waiting += 1
        self.most = max(self.most, self.waiting)

        def result():
            self.waiting -= 1
            return work(*arguments)

        return SimpleNamespace(result=result)

    def cancel(self, futures):
        self.cancelled += futures


def test_few_results_are_under_way_and_in_the_order_of_the_tasks(monkeypatch):
    monkeypatch.setattr("corrsk.workflows.mapping.cluster.checked_client", lambda one, _: one)
    client = Client()
    tasks = ((k,) for k in range(100))
    assert list(in_order(client, lambda k: k**2, tasks)) == [k**2 for k in range(100)]
    assert client.most == 6
    client = Client()
    results = in_order(client, lambda k: k, ((k,) for k in range(100)))
    assert next(results) == 0
    results.close()
    assert len(client.cancelled) == 5


@pytest.mark.parametrize(
    ("sizes", "workers", "expected"),
    [
        ([9], 4, [9]), ([9, 9, 9], 2, [9]), ([9, 9], 2, []), ([100, 9, 9], 2, [100]),
        ([1], 4, []), ([9, 9], 40, [9, 9]), ([9, 1, 9, 1, 9], 2, [9]),
    ],
)  # fmt: skip
def test_which_subjects_are_spread(sizes, workers, expected, monkeypatch):
    planned = [mock.Mock() for _ in sizes]
    for one, size in zip(planned, sizes, strict=True):
        one.subject.images.grid.n_voxels = size
    monkeypatch.setattr(
        run_module, "n_slabs_of", lambda one, _: 1 + (one.subject.images.grid.n_voxels > 1)
    )
    whole, spread = run_module._allocated(planned, MapSettings(), workers)
    assert [one.subject.images.grid.n_voxels for one in spread] == expected
    assert {id(one) for one in (*whole, *spread)} == {id(one) for one in planned}
    assert len(whole) + len(spread) == len(sizes)


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
    monkeypatch.setattr("corrsk.workflows.mapping.run.n_workers", lambda client: 1)
    monkeypatch.setattr("corrsk.cli.map.nullcontext", lambda: nullcontext("client"))
    out = tmp_path / "out"
    result = run(
        *sources(raw), "-o", out, "--times", raw / "times.json", "--model", "midl2024"
    )  # fmt: skip
    assert result.exit_code == 1
    text = " ".join(result.output.split())
    assert "1 of 3 subjects failed, the others are complete: sub-02 (KilledWorker: " in text
    assert sorted(path.name for path in out.iterdir()) == ["run.json", "sub-01", "sub-03"]
