"""Training of a model from a configuration file."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from corrsk import load, make_correlation_signals
from corrsk.workflows import training
from corrsk.workflows.training import TrainingConfiguration, train

pytest.importorskip("yaml")

CONFIG = """
prior:
  n_compartments: [1, 2]
  ranges:
    T1: {low: 200, high: 4000, scale: log}
    T2: {low: 10, high: 500, scale: log}
  nuisances: {inversion_efficiency: [0.9, 1.0]}
protocol: {grid: {TI: [50, 500, 2000], TE: [10, 60, 150]}}
noise: {snr: [50, 300], reference: max}
training: {samples: 10000, validation: 500, novelty: false, seed: 4}
"""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(CONFIG)
    return path


def test_toml_json_and_yaml_are_the_same_configuration(config, tmp_path):
    from_yaml = TrainingConfiguration.from_file(config)
    (tmp_path / "mine.toml").write_text(
        """
prior.n_compartments = [1, 2]
prior.ranges = {T1 = {low = 200, high = 4000, scale = "log"}, T2 = {low = 10, high = 500, scale = "log"}}
prior.nuisances = {inversion_efficiency = [0.9, 1.0]}
protocol.grid = {TI = [50, 500, 2000], TE = [10, 60, 150]}
noise = {snr = [50, 300], reference = "max"}
training = {samples = 10000, validation = 500, novelty = false, seed = 4}
"""  # noqa: E501
    )
    assert TrainingConfiguration.from_file(tmp_path / "mine.toml") == from_yaml
    assert TrainingConfiguration.from_file(config, minutes=2.0).samples is None
    (tmp_path / "mine.toml").write_text("a = [")
    with pytest.raises(ValueError, match="is not a TOML file"):
        TrainingConfiguration.from_file(tmp_path / "mine.toml")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ("training: {epochs: 3}", "epochs"),
        ("training: {samples: 20}", "samples must be an integer from 10,000, got 20"),
        ("training: {samples: 20000, minutes: 3}", "samples and minutes both set the size"),
        ("training: {network: resnet}", "network must be one of"),
    ],
)
def test_an_invalid_configuration_is_one_sentence(config, changed, message):
    config.write_text(CONFIG.rsplit("training", 1)[0] + changed)
    with pytest.raises(ValueError, match=message):
        TrainingConfiguration.from_file(config)


@pytest.mark.slow
@pytest.mark.network
def test_the_file_has_the_whole_configuration(config, tmp_path):
    configuration = TrainingConfiguration.from_file(config)
    out = tmp_path / "mine.safetensors"
    trained = train(configuration, out, device="cpu", verbose=False)
    model = load(out)
    assert (model.n_samples, model.random_state) == (10_000, 4)
    assert model.definition.prior.nuisances.inversion_efficiency == (0.9, 1.0)
    assert model.checkpoint is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.safetensors", "mine.yaml"]
    X, _ = make_correlation_signals(
        30, prior=model.prior, protocol=model.protocol, noise_level=model.noise_level,
        noise_reference="max", norm=None, random_state=0,
    )  # fmt: skip
    np.testing.assert_allclose(model.predict_proba(X), trained.predict_proba(X), atol=1e-5)
    with pytest.raises(FileExistsError, match="--force"):
        train(configuration, out)
    with pytest.raises(ValueError, match=r"must end in .safetensors"):
        train(configuration, tmp_path / "mine.pt")
    with pytest.raises(FileNotFoundError, match="no folder"):
        train(configuration, tmp_path / "absent" / "mine.safetensors")


@pytest.mark.slow
def test_minutes_become_a_stored_number_of_signals(config, tmp_path):
    configuration = TrainingConfiguration.from_file(config, minutes=0.001)
    model = train(configuration, tmp_path / "mine.safetensors", device="cpu", verbose=False)
    assert load(tmp_path / "mine.safetensors").n_samples == model.n_samples >= 10_000


# the process ends itself after its first checkpoint, however fast or busy the machine is
KILLED = """
import os
import signal
from corrsk.cli import main
from corrsk.neural.training.checkpoint import TrainingCheckpoint

write = TrainingCheckpoint.write


def write_and_die(self, net):
    write(self, net)
    os.kill(os.getpid(), signal.SIGKILL)


TrainingCheckpoint.write = write_and_die
main()
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_a_killed_training_is_resumed(config, tmp_path):
    out = tmp_path / "mine.safetensors"
    arguments = ["train", str(config), "--out", str(out), "--samples", "40000", "--jobs", "1"]
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, *arguments], stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": str(Path.cwd())},
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL
    assert (tmp_path / "mine.checkpoint").exists()
    assert not out.exists()
    assert json.loads((tmp_path / "mine.checkpoint.json").read_text())["samples"] == 40_000
    configuration = TrainingConfiguration.from_file(config, samples=40_000)
    with pytest.raises(FileExistsError, match="--resume"):
        train(configuration, out, device="cpu", n_jobs=1, verbose=False)
    other = TrainingConfiguration.from_file(config, samples=50_000)
    with pytest.raises(FileExistsError, match="another configuration"):
        train(other, out, device="cpu", n_jobs=1, resume=True, verbose=False)
    resumed = train(configuration, out, device="cpu", n_jobs=1, resume=True, verbose=False)
    assert load(out).n_samples == 40_000
    whole = train(configuration, tmp_path / "whole.safetensors", device="cpu", n_jobs=1,
                  verbose=False)  # fmt: skip
    X, _ = make_correlation_signals(
        30, prior=whole.prior, protocol=whole.protocol, noise_level=whole.noise_level,
        noise_reference="max", norm=None, random_state=0,
    )  # fmt: skip
    np.testing.assert_array_equal(resumed.predict_proba(X), whole.predict_proba(X))
    assert not (tmp_path / "mine.checkpoint").exists()


@pytest.mark.slow
def test_a_resumed_training_of_minutes_keeps_its_number_of_signals(config, tmp_path, monkeypatch):
    configuration = TrainingConfiguration.from_file(config, minutes=0.001)
    out = tmp_path / "mine.safetensors"

    def interrupted(self):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(training, "_signals_per_second", lambda *_: 250_000.0)
        patched.setattr(training.SimulationTrainedClassifier, "fit", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(configuration, out, device="cpu", n_jobs=1, verbose=False)
    monkeypatch.setattr(training, "_signals_per_second", lambda *_: pytest.fail("measured again"))
    model = train(configuration, out, device="cpu", n_jobs=1, resume=True, verbose=False)
    assert model.n_samples == 15_000  # 250,000 per second in 0.06 s
