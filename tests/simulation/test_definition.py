"""Definitions of simulated data, in Python and in files."""

from __future__ import annotations

import copy
import dataclasses
import json
import re

import numpy as np
import pytest
import yaml

from corrsk import (
    AcquisitionProtocol,
    EchoTrain,
    Nuisances,
    PropertyRange,
    SignalStream,
    SNRRange,
    TissuePrior,
    make_correlation_signals,
)
from corrsk.physics import SliceProfile
from corrsk.simulation import DATASETS, DatasetDefinition, resolve_dataset, simulate_dataset
from corrsk.workflows.comparison import MODELS, ComparisonSettings
from corrsk.workflows.comparison.models import BuildOptions
from corrsk.workflows.reproduction import Configuration

CONTENT = {
    "name": "knee",
    "description": "Cartilage",
    "prior": {
        "ranges": {
            "T1": {"low": 200, "high": 2000, "scale": "log"}, "T2": {"low": 5, "high": 100}
        },
        "n_compartments": [1, 2],
    },
    "protocol": {"grid": {"TI": [50, 200, 800], "TE": [5, 15, 40]}, "tr": 8000},
    "noise": {"snr": [50, 200], "reference": "max", "distribution": "rician"},
    "inversion_efficiency": 0.9,
    "norm": "max",
}  # fmt: skip
KNEE = DatasetDefinition(
    "knee",
    TissuePrior(
        {"T1": PropertyRange(200, 2000, scale="log"), "T2": PropertyRange(5, 100)},
        n_compartments=(1, 2),
    ),
    AcquisitionProtocol.from_grid(ti=[50, 200, 800], te=[5, 15, 40], tr=8000),
    SNRRange(50, 200), "max", "Cartilage", norm="max", noise_distribution="rician",
    inversion_efficiency=0.9,
)  # fmt: skip
TEXT = """\
description: Cartilage
prior:
  ranges:
    T1: {low: 200, high: 2e3, scale: log}   # YAML 1.1 would read 2e3 as text
    T2: {low: 5, high: 100}
  n_compartments: [1, 2]
protocol:
  grid: {TI: [50, 200, 800], TE: [5, 15, 40]}
  tr: 8000
noise: {snr: [50, 200], reference: max, distribution: rician}
inversion_efficiency: 0.9
norm: max
"""


def changed(path, value):
    """CONTENT with another entry; a path such as "noise.snr", a value "absent" for none."""
    content = copy.deepcopy(CONTENT)
    *parents, last = path.split(".")
    part = content
    for key in parents:
        part = part[key]
    if value == "absent":
        del part[last]
    else:
        part[last] = value
    return content


@pytest.mark.parametrize("suffix", [".yaml", ".yml", ".json"])
def test_a_definition_from_a_file(tmp_path, suffix):
    path = tmp_path / f"knee{suffix}"
    path.write_text(json.dumps(CONTENT) if suffix == ".json" else TEXT)
    assert DatasetDefinition.from_file(path) == KNEE  # the name is that of the file


@pytest.mark.parametrize("suffix", [".yaml", ".json"])
@pytest.mark.parametrize("definition", [KNEE, *DATASETS.values()], ids=lambda item: item.name)
def test_files_keep_the_definition(tmp_path, definition, suffix):
    path = tmp_path / f"other{suffix}"
    definition.to_file(path)
    assert DatasetDefinition.from_file(path) == definition
    resolved = definition.resolved()
    resolved.to_file(path)
    again = DatasetDefinition.from_file(path)
    assert again == resolved
    np.testing.assert_array_equal(
        simulate_dataset(again, 50, 3).data, simulate_dataset(definition, 50, 3).data
    )


SERIES = AcquisitionProtocol.concatenate(
    [
        AcquisitionProtocol(te=[90, 10, 40], tr=3000),
        AcquisitionProtocol(ti=[2000, 50, 400], te=10, tr=8000),
    ]
)


@pytest.mark.parametrize("suffix", [".yaml", ".json"])
def test_files_keep_the_order_infinite_times_and_each_tr(tmp_path, suffix):
    definition = dataclasses.replace(KNEE, protocol=SERIES)
    path = tmp_path / f"series{suffix}"
    definition.to_file(path)
    again = DatasetDefinition.from_file(path)
    assert again == definition
    assert again.protocol.feature_names == SERIES.feature_names
    assert again.protocol.ti.tolist() == [np.inf] * 3 + [2000, 50, 400]
    assert again.protocol.tr.tolist() == [3000] * 3 + [8000] * 3
    assert again.to_dict() == definition.to_dict()
    # run.json, which is compared when a run is resumed, is JSON without infinite numbers
    for settings in (ComparisonSettings(dataset=again), Configuration(dataset=again)):
        identity = settings.identity
        identity = identity() if callable(identity) else identity
        assert json.loads(json.dumps(identity, allow_nan=False)) == identity
    data = simulate_dataset(again, 50, 3)
    assert data.feature_names == SERIES.feature_names
    X, _ = SignalStream.from_definition(again).draw(0, 50)
    assert X.shape == (50, 6)


SCANNER_TEXT = """\
prior:
  ranges:
    T1: {low: 200, high: 3000, scale: log}
    T2: {low: 10, high: 300, scale: log}
  n_compartments: [1, 2]
  nuisances: {inversion_efficiency: [0.8, 1.0], b1: [0.8, 1.1], offset: 0.01, gain: [0.5, 2]}
protocol:
  TI: [50, 400, 2000, .inf, .inf, .inf]
  TE: [10, 10, 10, 10, 20, 30]
  tr: [9000, 9000, 9000, 3000, 3000, 3000]
  series: [0, 0, 0, 1, 1, 1]
  readout:
    - null
    - null
    - null
    - &train
      spacing: 10
      refocusing_angle: 150
      profile:
        {refocusing_width: 1, refocusing_steepness: 2, excitation_width: 2, excitation_steepness: 9}
    - *train
    - *train
noise: {snr: [20, 1000], snr_scale: log, reference: max, distribution: rician}
"""


def test_a_file_may_state_echo_trains_series_and_nuisances(tmp_path):
    path = tmp_path / "scanner.yaml"
    path.write_text(SCANNER_TEXT)
    definition = DatasetDefinition.from_file(path)
    protocol = definition.protocol
    train = EchoTrain(10, 150, profile=SliceProfile(1, 2, 2, 9))
    assert protocol.readout == (None,) * 3 + (train,) * 3
    assert protocol.series.tolist() == [0, 0, 0, 1, 1, 1]
    assert definition.noise_levels == SNRRange(20, 1000, scale="log")
    assert definition.prior.nuisances == Nuisances(
        inversion_efficiency=(0.8, 1.0), b1=(0.8, 1.1), offset=0.01, gain=(0.5, 2.0)
    )
    for suffix in (".yaml", ".json"):
        copy_of_it = tmp_path / f"again{suffix}"
        definition.to_file(copy_of_it)
        again = DatasetDefinition.from_file(copy_of_it)
        assert again == definition
        assert again.to_dict() == definition.to_dict()
    for settings in (ComparisonSettings(dataset=again), Configuration(dataset=again)):
        identity = settings.identity
        identity = identity() if callable(identity) else identity
        assert json.loads(json.dumps(identity, allow_nan=False)) == identity
    np.testing.assert_array_equal(
        simulate_dataset(again, 50, 3).data, simulate_dataset(definition, 50, 3).data
    )
    X, _ = SignalStream.from_definition(definition).draw(0, 50)
    assert X.shape == (50, 6)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("spacing: 10", "spaceing: 10", "spaceing"),
        ("spacing: 10", "spacing: 9", "TE of 10 ms is no echo of a train with a spacing of 9 ms"),
        ("refocusing_width: 1, ", "", "refocusing_width"),
        ("offset: 0.01", "ofset: 0.01", "nuisances.*ofset"),
        ("b1: [0.8, 1.1]", "b1: [0.8, 3]", "b1 must be ascending"),
        ("snr_scale: log", "snr_scale: lin", "scale must be 'linear' or 'log', got 'lin'"),
        ("snr: [20, 1000]", "levels: [0.01]", "snr_scale needs snr"),
        ("series: [0, 0, 0, 1, 1, 1]", "series: [0, 1]", "an integer for each of the 6"),
        ("  series: [0, 0, 0, 1, 1, 1]\n", "", "range of gain.*1 series"),
    ],
)
def test_wrong_echo_trains_series_and_nuisances_are_named(tmp_path, old, new, message):
    path = tmp_path / "scanner.yaml"
    assert SCANNER_TEXT.count(old) == 1
    path.write_text(SCANNER_TEXT.replace(old, new))
    with pytest.raises(ValueError, match=rf"scanner\.yaml: .*{message}"):
        DatasetDefinition.from_file(path)


def test_a_file_may_state_units_and_infinite_times(tmp_path):
    path = tmp_path / "rock.yaml"
    path.write_text(
        TEXT.replace("grid: {TI: [50, 200, 800], TE: [5, 15, 40]}",
                     "contrasts: {TI: [.inf, 0.0001, inf], TE: [5.0e-5, 0.002, 0.001]}\n"
                     "  units: s")
        .replace("tr: 8000", "tr: [0.04, 0.05, 0.06]")
        .replace("T2: {low: 5, high: 100}", "T2: {low: 0.0002, high: 0.003, units: s}")
    )  # fmt: skip
    definition = DatasetDefinition.from_file(path)
    assert definition.protocol.ti.tolist() == [np.inf, 0.1, np.inf]
    assert definition.protocol.te.tolist() == [0.05, 2, 1]
    assert definition.protocol.tr.tolist() == [40, 50, 60]
    assert definition.prior.ranges["T2"] == PropertyRange(0.2, 3)
    definition.to_file(path)
    assert DatasetDefinition.from_file(path) == definition
    # and the model-based methods of a comparison believe the stated units
    options = BuildOptions.from_definition(definition, seed=0)
    X = simulate_dataset(definition, 30, 0).data
    MODELS["multi-exponential"].make(options).fit(X, np.ones(30, dtype=int))


def test_a_protocol_may_be_a_file_beside_the_definition(tmp_path, monkeypatch):
    protocol = AcquisitionProtocol(ti=[900, 50], te=[7.5, 20])
    protocol.to_json(tmp_path / "mine.json")
    path = tmp_path / "knee.json"
    path.write_text(json.dumps(changed("protocol", "mine.json")))
    assert DatasetDefinition.from_file(path).protocol == protocol
    path.write_text(json.dumps(changed("protocol", "absent.json")))
    with pytest.raises(FileNotFoundError, match=re.escape(str(tmp_path / "absent.json"))):
        DatasetDefinition.from_file(path)
    monkeypatch.chdir(tmp_path)
    assert DatasetDefinition.from_dict(changed("protocol", "mine.json")).protocol == protocol


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("nosie", {}, "unknown entries of a definition: nosie; the entries .* prior, protocol, n"),
        ("prior", "absent", "a definition lacks prior"),
        ("protocol", "absent", "a definition lacks protocol"),
        ("noise", "absent", "a definition lacks noise"),
        ("name", "a/b", "name must be a text without slashes, got 'a/b'"),
        ("description", 5, "description must be a text, got 5"),
        ("prior", "midl2025", "prior: unknown tissue prior 'midl2025'; known .*: midl2024, t1t2"),
        ("prior", 5, "prior: a prior must be a mapping, got 5"),
        ("prior.rangs", {}, "prior: unknown entries of a prior: rangs; .* ranges, n_compart"),
        (
            "prior.ranges.T1.high",
            20,
            "prior: the range of T1: a range needs 0 < low <= high.* 200 .. 20",
        ),
        ("prior.n_compartments", [0, 1], "prior: each of n_compartments must be at least 1"),
        ("prior.n_compartments", [1.5], "prior: each of n_compartments must be an integer"),
        ("prior.fraction_law", "x", "prior: unknown fraction law 'x'; known .*dirichlet"),
        ("protocol", "ir-9x9", "protocol: unknown protocol 'ir-9x9'; known .*ir-se-8x8"),
        ("protocol.TX", 8, "protocol: unknown entries of a protocol: TX; .*contrasts, grid, tr"),
        ("protocol.TR", 8, "protocol: a protocol has both 'tr' and 'TR'"),
        ("protocol.grid", "absent", "protocol: lacks contrasts .* or grid"),
        ("protocol.grid.TX", [1], "unknown entries of the scan parameters of a protocol: TX"),
        ("protocol.grid.TI", ["a"], "protocol: .*'a'"),
        ("protocol.grid.b", [0, 1], "the protocol measures D, but the prior has no range for D"),
        ("noise", 0.01, "noise must be a mapping, got 0.01; .*levels, snr, snr_scale, reference"),
        ("noise.sigma", 1, "unknown entries of noise: sigma"),
        ("noise.reference", "absent", "noise lacks reference"),
        ("noise.reference", "M0", "noise reference must be one of m0, max, rms, first; got 'M0'"),
        ("noise.distribution", "poisson", "one of gaussian, rician; got 'poisson'"),
        ("noise.snr", "absent", r"noise needs either levels, .*\[0.01, 0.02\], or snr"),
        ("noise.levels", [0.1], "noise needs either levels"),
        ("noise.snr", [1, 2, 3], r"noise levels: snr must be .*two bounds.*\[1, 2, 3\]"),
        ("noise.snr", "high", "noise levels: snr must be a number or two bounds.*'high'"),
        ("noise.snr", [200, 50], "0 < low <= high"),
        ("inversion_efficiency", 2, r"inversion_efficiency must be in \(0, 1\], got 2"),
        ("inversion_efficiency", True, "inversion_efficiency must be in"),
        ("norm", "none", "norm must be one of l2, rms, max, null; got 'none'"),
    ],
)
def test_bad_entries_are_named(tmp_path, path, value, message):
    file = tmp_path / "knee.json"
    file.write_text(json.dumps(changed(path, value)))
    with pytest.raises(ValueError, match=message) as error:
        DatasetDefinition.from_file(file)
    assert str(error.value).startswith(f"{file}: ")


@pytest.mark.parametrize("levels", [[], [-0.1], ["0.1"], True, {"a": 1}, [0.1, None]])
def test_bad_noise_levels(levels):
    content = CONTENT | {"noise": {"levels": levels, "reference": "m0"}}
    with pytest.raises(ValueError, match="noise levels: "):
        DatasetDefinition.from_dict(content)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "", "must end in one of .json, .yaml, .yml, .toml"),
        ("a.toml", "norm = [", "is not a TOML file"),
        ("a.json", "{", "is not a JSON file"),
        ("a.json", "[1]", "must hold entries"),
        ("a.json", '{"norm": "l2", "norm": null}', "the entry 'norm' occurs twice"),
        ("a.yaml", "norm: l2\nnorm: max", "the entry 'norm' occurs twice"),
        ("a.yaml", "norm: [", "is not a YAML file"),
        ("a.yaml", "", "must hold entries"),
    ],
)
def test_bad_files(tmp_path, name, text, message):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        DatasetDefinition.from_file(path)


def test_absent_files_and_the_suffix_of_a_new_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no file .*a\.yaml"):
        DatasetDefinition.from_file(tmp_path / "a.yaml")
    with pytest.raises(ValueError, match="must end in one of"):
        KNEE.to_file(tmp_path / "knee.toml")


def test_a_yaml_file_is_readable(tmp_path):
    KNEE.to_file(tmp_path / "knee.yaml")
    assert yaml.safe_load((tmp_path / "knee.yaml").read_text()) == KNEE.to_dict()
    assert "snr: [50, 200]" in (tmp_path / "knee.yaml").read_text()


def test_all_parameters_act_on_the_signals():
    data = simulate_dataset(KNEE, 200, 5)
    assert data.definition == KNEE
    expected, y, levels, _ = make_correlation_signals(
        200, prior=KNEE.prior, protocol=KNEE.protocol, noise_level=KNEE.noise_levels,
        noise_reference="max", noise_distribution="rician", inversion_efficiency=0.9,
        norm="max", random_state=5, return_tissue=True,
    )  # fmt: skip
    np.testing.assert_array_equal(data.data, expected)
    np.testing.assert_array_equal(data.target, y)
    np.testing.assert_array_equal(data.noise_level, levels)
    assert (data.data >= 0).all()  # magnitudes
    for change in (
        {"noise_distribution": "gaussian"}, {"inversion_efficiency": 1.0}, {"norm": None}
    ):  # fmt: skip
        other = simulate_dataset(dataclasses.replace(KNEE, **change), 200, 5).data
        assert not np.array_equal(other, expected)
    stream = SignalStream.from_definition(KNEE, random_state=2)
    assert stream == SignalStream(
        KNEE.prior, KNEE.protocol, KNEE.noise_levels, "max", "rician", 0.9, "max", 2
    )


def test_coils():
    content = changed("noise", CONTENT["noise"] | {"coils": 4})
    several = DatasetDefinition.from_dict(content)
    assert several == dataclasses.replace(KNEE, n_coils=4)
    assert several.to_dict()["noise"]["coils"] == 4
    assert DatasetDefinition.from_dict(several.to_dict()) == several
    assert "coils" not in KNEE.to_dict()["noise"]
    parameters = {
        "prior": KNEE.prior, "protocol": KNEE.protocol, "noise_level": KNEE.noise_levels,
        "noise_reference": "max", "noise_distribution": "rician", "inversion_efficiency": 0.9,
        "norm": "max", "n_coils": 4,
    }  # fmt: skip
    expected, _ = make_correlation_signals(200, **parameters, random_state=5)
    np.testing.assert_array_equal(simulate_dataset(several, 200, 5).data, expected)
    stream = SignalStream.from_definition(several, random_state=2)
    assert stream == SignalStream(**parameters, random_state=2)
    one = SignalStream.from_definition(KNEE, random_state=2)
    assert not np.array_equal(stream.draw(0, 100)[0], one.draw(0, 100)[0])
    assert "n_coils" not in one.identity  # checkpoints of earlier versions remain valid
    assert stream.identity != one.identity
    with pytest.raises(ValueError, match="n_coils=2 needs noise_distribution='rician'"):
        dataclasses.replace(KNEE, noise_distribution="gaussian", n_coils=2)
    with pytest.raises(ValueError, match="n_coils must be an integer from 1 to 32, got 'two'"):
        DatasetDefinition.from_dict(changed("noise", CONTENT["noise"] | {"coils": "two"}))


def test_names_of_data_sets_are_reserved():
    assert resolve_dataset("midl2024") is DATASETS["midl2024"]
    assert resolve_dataset(KNEE) is KNEE
    same = DATASETS["midl2024"].resolved()
    assert resolve_dataset(same) is same
    with pytest.raises(ValueError, match="the name 'midl2024' belongs to another data set"):
        resolve_dataset(dataclasses.replace(KNEE, name="midl2024"))
    with pytest.raises(ValueError, match="known data sets"):
        resolve_dataset("knee")
    with pytest.raises(TypeError, match="must be a DatasetDefinition or the name"):
        resolve_dataset(5)


def test_a_single_class_cannot_be_trained():
    KNEE.check_for_training()
    prior = dataclasses.replace(KNEE.prior, n_compartments=(2,))
    with pytest.raises(ValueError, match="knee has voxels of 2 compartments only"):
        dataclasses.replace(KNEE, prior=prior).check_for_training()
