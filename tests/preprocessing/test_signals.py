"""Columns of signals: order of the protocol, names, levels, dimensions and axes."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from corrsk import (
    AcquisitionProtocol,
    CorrelationCNNClassifier,
    ProtocolAligner,
    ProtocolMismatchError,
    ResidualMLPClassifier,
    SignalNormalizer,
    load_pretrained,
    make_correlation_signals,
)
from corrsk.acquisition.labels import attached_protocol, signals_table
from corrsk.novelty import SignalNoveltyDetector
from corrsk.relaxometry import (
    IdealObserverClassifier,
    MultiExponentialClassifier,
    NNLSPeakClassifier,
)

GRID = AcquisitionProtocol.named("ir-se-8x8")
ORDER = np.random.default_rng(0).permutation(64)
SCAN = AcquisitionProtocol({"TI": GRID.ti[ORDER], "TE": GRID.te[ORDER]})
MODEL_BASED = {
    "multi-exponential": (MultiExponentialClassifier, {"random_state": 0, "n_starts": 2}),
    "spectrum": (NNLSPeakClassifier, {"n_bins": 8}),
    "ideal observer": (
        IdealObserverClassifier, {"noise_level": 0.05, "n_particles": 128, "random_state": 0},
    ),
}  # fmt: skip


class DataArray:
    """The part of xarray's DataArray that corrsk uses."""

    def __init__(self, values, dims, coords=None):
        self.values, self.dims, self.shape = values, tuple(dims), values.shape
        self.coords = {
            name: SimpleNamespace(values=np.asarray(levels), attrs=attrs)
            for name, (levels, attrs) in (coords or {}).items()
        }

    def transpose(self, *dims):
        axes = [self.dims.index(dim) for dim in dims]
        moved = DataArray(self.values.transpose(axes), dims)
        moved.coords = self.coords
        return moved


@pytest.fixture(scope="module")
def signals():
    return make_correlation_signals(24, noise_level=0.05, random_state=3)


@pytest.fixture(scope="module")
def detector_signals():
    return make_correlation_signals(3000, random_state=0)[0]


def levels_in_ms():
    return {"TI": (np.unique(GRID.ti), {}), "TE": (np.unique(GRID.te), {"units": "ms"})}


def labelled(X):
    """Tables and data arrays with the signals X, in other orders than the grid's."""
    shuffled = X[:, ORDER]
    names = [f"ti_{ti:g}_te_{te:g}" for ti, te in zip(SCAN.ti, SCAN.te, strict=True)]
    levels = [SCAN.ti, SCAN.te]
    cube = X.reshape(-1, 8, 8)
    seconds = {"te": (np.unique(GRID.te) / 1000, {"units": "s"}), "ti": levels_in_ms()["TI"]}
    return {
        "names": pd.DataFrame(shuffled, columns=names),
        "a MultiIndex": pd.DataFrame(
            shuffled, columns=pd.MultiIndex.from_arrays(levels, names=["TI", "TE"])
        ),
        "a MultiIndex of names": pd.DataFrame(
            shuffled,
            columns=pd.MultiIndex.from_arrays(
                [[f"TI{ti:g}" for ti in SCAN.ti], [f"TE{te:g}" for te in SCAN.te]]
            ),
        ),
        "dimensions": DataArray(cube.transpose(2, 0, 1), ("TE", "voxel", "TI"), levels_in_ms()),
        "descending levels": DataArray(
            cube[:, ::-1],
            ("voxel", "TI", "TE"),
            {**levels_in_ms(), "TI": (np.unique(GRID.ti)[::-1], {})},
        ),
        "lower case and seconds": DataArray(cube.transpose(0, 2, 1), ("v", "te", "ti"), seconds),
        "BIDS and words": DataArray(
            cube,
            ("voxel", "InversionTime", "EchoTime"),
            {
                "InversionTime": (np.unique(GRID.ti) / 1000, {"units": "seconds"}),
                "EchoTime": (np.unique(GRID.te) * 1000, {"units": "microseconds"}),
            },
        ),
        "dimensions without coordinates": DataArray(cube.transpose(0, 2, 1), ("v", "TE", "TI")),
    }


LABELS = list(labelled(np.zeros((1, 64))))


@pytest.mark.filterwarnings("ignore:the probabilities of:sklearn.exceptions.ConvergenceWarning")
@pytest.mark.filterwarnings("ignore:.*voxels have a compartment at a bound")
@pytest.mark.parametrize("name", MODEL_BASED)
def test_columns_are_in_the_order_of_the_protocol(name, signals):
    cls, settings = MODEL_BASED[name]
    X, y = signals
    expected = cls(protocol=GRID, **settings).fit(X, y).predict_proba(X)
    model = cls(protocol=SCAN, **settings).fit(SCAN.to_scan_order(X), y)
    np.testing.assert_array_equal(model.predict_proba(SCAN.to_scan_order(X)), expected)
    assert model.protocol_.feature_names == SCAN.feature_names
    if hasattr(model, "estimate_compartments"):
        on_grid = cls(protocol=GRID, **settings).fit(X, y)
        pd.testing.assert_frame_equal(
            model.estimate_compartments(SCAN.to_scan_order(X)), on_grid.estimate_compartments(X)
        )
    if hasattr(model, "spectra"):
        on_grid = cls(protocol=GRID, **settings).fit(X, y)
        np.testing.assert_array_equal(model.spectra(SCAN.to_scan_order(X)), on_grid.spectra(X))


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("protocol", ["auto", GRID, SCAN], ids=["auto", "grid", "scan"])
@pytest.mark.filterwarnings("ignore:the protocol of the 64 columns is unknown")
def test_labels_determine_the_order(label, protocol, signals):
    X, y = signals
    table = labelled(X)[label]
    cls, settings = MODEL_BASED["spectrum"]
    expected = cls(protocol=GRID, **settings).fit(X, y).predict(X)
    if label == "dimensions without coordinates" and protocol is SCAN:
        with pytest.raises(ValueError, match="need a protocol in grid order"):
            cls(protocol=protocol, **settings).fit(table, y)
        return
    model = cls(protocol=protocol, **settings).fit(table, y)
    np.testing.assert_array_equal(model.predict(table), expected)
    # of a model whose signals in fit had no labels
    columns = X if protocol == "auto" or protocol is GRID else SCAN.to_scan_order(X)
    plain = cls(protocol=protocol, **settings).fit(columns, y)
    np.testing.assert_array_equal(plain.predict(table), expected)


@pytest.mark.parametrize("label", LABELS)
def test_pretrained_models_take_labels_in_any_order(label, signals):
    X, _ = signals
    model = load_pretrained("midl2024")
    np.testing.assert_array_equal(model.predict_proba(labelled(X)[label]), model.predict_proba(X))


@pytest.mark.parametrize("label", [label for label in LABELS if "without" not in label])
def test_the_detector_takes_labels_in_any_order(label, detector_signals):
    X = detector_signals
    detector = SignalNoveltyDetector(n_clusters=4, random_state=0, protocol=GRID).fit(X)
    expected = detector.score_samples(X)
    np.testing.assert_array_equal(detector.score_samples(labelled(X)[label]), expected)
    in_scan_order = SignalNoveltyDetector(n_clusters=4, random_state=0, protocol="ir-se-8x8")
    in_scan_order.fit(labelled(X)[label])
    # the names of fit determine the order of the columns
    assert set(in_scan_order.protocol_.feature_names) == set(GRID.feature_names)
    in_scan_order.score_samples(labelled(X)[label])


def test_a_detector_without_a_protocol_refuses_names(detector_signals):
    detector = SignalNoveltyDetector(n_clusters=4, random_state=0).fit(detector_signals)
    assert detector.protocol_ is None
    frame = pd.DataFrame(detector_signals, columns=GRID.feature_names)
    with pytest.raises(ValueError, match=r"names of measurements.*pass protocol="):
        detector.predict(frame)
    by_names = SignalNoveltyDetector(n_clusters=4, random_state=0).fit(frame)
    assert by_names.protocol_ == GRID
    with pytest.raises(ValueError, match="same order"):
        by_names.predict(frame.iloc[:, ::-1])
    with pytest.raises(ValueError, match="X has 64 columns, but the protocol has 3"):
        SignalNoveltyDetector(protocol=GRID.subset([0, 1, 2])).fit(detector_signals)


@pytest.mark.parametrize("name", MODEL_BASED)
def test_wrong_names_are_refused(name, signals):
    cls, settings = MODEL_BASED[name]
    X, y = signals
    frame = pd.DataFrame(X, columns=[*GRID.feature_names[:63], "first"])
    other = pd.DataFrame(X, columns=AcquisitionProtocol(
        ti=GRID.ti, te=1.5 * GRID.te).feature_names)  # fmt: skip
    model = cls(protocol=GRID, **settings).fit(X, y)
    for estimator in (cls(**settings), cls(protocol=GRID, **settings)):
        with pytest.raises(ValueError, match="'first' is not understood"):
            estimator.fit(frame, y)
    with pytest.raises(ValueError, match="'first' is not understood"):
        model.predict(frame)
    new = cls(protocol=GRID, **settings)
    for call in (lambda: new.fit(other, y), lambda: model.predict(other)):
        with pytest.raises(ValueError, match="TI50_TE6.75.*are not among its measurements"):
            call()
    nameless = pd.DataFrame(X, columns=[f"c{k}" for k in range(64)])
    assert cls(protocol=GRID, **settings).fit(nameless, y).protocol_ is GRID


def test_names_that_differ_from_those_of_fit(signals):
    X, y = signals
    levels = pd.MultiIndex.from_arrays([GRID.ti, GRID.te], names=["TI", "TE"])
    frame = pd.DataFrame(X, columns=levels)
    for estimator in (SignalNormalizer(), ResidualMLPClassifier(max_epochs=1, width=8)):
        estimator.fit(frame, y)
        assert estimator.feature_names_in_.tolist() == GRID.feature_names
        with pytest.raises(ValueError, match="same order"):
            getattr(estimator, "transform", getattr(estimator, "predict", None))(
                frame.iloc[:, ::-1]
            )


@pytest.mark.parametrize("name", [None, "TI", "measurement"])
def test_numbers_as_columns(name):
    ti = np.array([800, 50, 200, 400, 3000])
    protocol = AcquisitionProtocol(ti=ti)
    X = 1 - 2 * np.exp(-ti / np.array([[300], [900]]))
    frame = pd.DataFrame(X, columns=pd.Index(np.sort(ti), name=name))
    model = NNLSPeakClassifier(AcquisitionProtocol(ti=np.sort(ti)), n_bins=6).fit(frame, [1, 2])
    # numbers are times only if the columns are called TI
    names = [f"TI{value}" for value in np.sort(ti)] if name == "TI" else None
    assert getattr(model, "feature_names_in_", np.array(None)).tolist() == names
    assert protocol == model.protocol_


# -- axes ------------------------------------------------------------------------------


WIDE = AcquisitionProtocol.from_grid(te=[10, 20, 40, 80], b=[0, 0.5, 1])


@pytest.fixture(scope="module")
def wide():
    rng = np.random.default_rng(0)
    D = rng.uniform(0.5, 2, (20, 1))
    return np.exp(-WIDE.te / 60 - WIDE.b * D), np.repeat([1, 2], 10)


@pytest.mark.parametrize(
    "estimator",
    [MultiExponentialClassifier(WIDE), NNLSPeakClassifier(WIDE, n_bins=6),
     ProtocolAligner(WIDE, prior="midl2024")],
    ids=lambda estimator: type(estimator).__name__,
)  # fmt: skip
def test_axes_are_compared_with_the_protocol(estimator, wide):
    X, y = wide
    if isinstance(estimator, ProtocolAligner):
        estimator = ProtocolAligner(GRID.subset(np.arange(48)))  # 6 TI x 8 TE
        X, a, b = np.ones((20, 48)), 6, 8
    else:
        a, b = 4, 3
    estimator.fit(X.reshape(-1, a, b), y)
    apply = getattr(estimator, "predict", getattr(estimator, "transform", None))
    np.testing.assert_array_equal(apply(X.reshape(-1, a, b)), apply(X))
    wrong = X.reshape(-1, a, b).swapaxes(1, 2)
    for call in (lambda: estimator.fit(wrong, y), lambda: apply(wrong)):
        with pytest.raises(ValueError, match=rf"\(n_samples, {b}, {a}\).*\(n_samples, {a}, {b}\)"):
            call()


@pytest.mark.parametrize(
    "estimator",
    [
        SignalNormalizer(),
        SignalNoveltyDetector(n_clusters=2, random_state=0),
        ResidualMLPClassifier(max_epochs=1, width=8),
        CorrelationCNNClassifier(protocol="ir-se-8x8", max_epochs=1, verbose=False),
        ProtocolAligner(),
        NNLSPeakClassifier("ir-se-8x8", n_bins=6),
    ],
    ids=lambda estimator: type(estimator).__name__,
)
def test_axes_are_compared_with_those_of_fit(estimator):
    X, y = make_correlation_signals(200, noise_level=0.05, random_state=3)
    cube = X.reshape(-1, 8, 8)
    estimator.fit(cube, y)
    apply = getattr(estimator, "predict", getattr(estimator, "transform", None))
    assert len(apply(cube)) == len(X)
    np.testing.assert_array_equal(apply(cube), apply(X))
    with pytest.raises(ValueError, match=r"\(n_samples, 4, 16\).*\(n_samples, 8, 8\)"):
        apply(X.reshape(-1, 4, 16))


def short_times():
    protocol = AcquisitionProtocol.from_grid(
        ti=0.5 + 2.0 * np.arange(8), te=0.25 * np.arange(1, 9), units="ms"
    )
    return protocol, [f"TI{a:g}ms_TE{b:g}ms" for a, b in zip(protocol.ti, protocol.te, strict=True)]


def test_names_of_stated_short_times():
    X, _ = make_correlation_signals(300, noise_level=0.01, random_state=0)
    short, in_ms = short_times()
    with pytest.raises(ValueError, match="must be in ms"):
        SignalNoveltyDetector(random_state=0).fit(pd.DataFrame(X, columns=short.feature_names))
    for names, given in ((short.feature_names, short), (in_ms, short), (in_ms, "auto")):
        named = pd.DataFrame(X, columns=names)
        detector = SignalNoveltyDetector(protocol=given, random_state=0).fit(named)
        assert detector.protocol_ == short
    levels = pd.MultiIndex.from_arrays([short.ti, short.te], names=["TI", "TE"])
    named = pd.DataFrame(X, columns=levels)
    assert SignalNoveltyDetector(protocol=short, random_state=0).fit(named).protocol_ == short
    aligner = ProtocolAligner(protocol=short).fit(pd.DataFrame(X, columns=in_ms).iloc[:, ::-1])
    assert aligner.measured_protocol_ == short
    np.testing.assert_array_equal(aligner.order_, np.arange(64)[::-1])


def test_names_of_repeats_with_different_tr():
    """Equal protocols name each measurement alike, whatever the order of the columns."""
    scan = AcquisitionProtocol(ti=[50, 100, 200, 400, 800, 1600] * 2, tr=[9000] * 6 + [2000] * 6)
    sorted_scan = scan.in_grid_order()
    t1 = np.array([700.0, 1500.0])
    recovery = 1 - 2 * np.exp(-scan.ti / t1[:, None]) + np.exp(-scan.tr / t1[:, None])
    X, y = np.tile(recovery, (2, 1)), [1, 1, 2, 2]
    on_grid = pd.DataFrame(scan.to_grid(X), columns=sorted_scan.feature_names)
    fits = [(scan, X), (scan, on_grid), ("auto", on_grid)]
    for protocol, signals in fits:
        model = MultiExponentialClassifier(protocol=protocol, random_state=0).fit(signals, y)
        assert model.protocol_ == scan
        found = model.estimate_compartments(on_grid, 1)["T1_1"]
        np.testing.assert_allclose(found[:2], t1, rtol=1e-3)
    aligner = ProtocolAligner(protocol=scan).fit(on_grid)
    np.testing.assert_array_equal(aligner.transform(on_grid), X)


def test_dimensions_of_samples(signals):
    X, _ = signals
    volume = DataArray(X.reshape(4, 6, 8, 8), ("x", "y", "TI", "TE"), levels_in_ms())
    with pytest.raises(ValueError, match=r"one dimension of samples beside TI, TE.*X\.stack"):
        SignalNormalizer().fit(volume)
    no_scan_parameters = DataArray(X, ("voxel", "measurement"))
    assert SignalNormalizer().fit(no_scan_parameters).layout_ is None
    one = DataArray(X[:, :8], ("voxel", "te"), {"te": (np.unique(GRID.te), {"units": "ms"})})
    assert SignalNormalizer().fit(one).feature_names_in_[0] == "TE4.5"
    in_apples = {**levels_in_ms(), "TI": (np.unique(GRID.ti), {"units": "apples"})}
    bad = DataArray(X.reshape(-1, 8, 8), ("v", "TI", "TE"), in_apples)
    with pytest.raises(ValueError, match="apples"):
        SignalNormalizer().fit(bad)
    some = DataArray(X.reshape(-1, 8, 8), ("v", "TI", "TE"), {"TI": levels_in_ms()["TI"]})
    with pytest.raises(ValueError, match="no coordinates for the dimensions TE; .*all or none"):
        SignalNormalizer().fit(some)
    unknown = DataArray(X.reshape(-1, 8, 8), ("voxel", "inversion", "echo"))
    with pytest.raises(ValueError, match="none of the dimensions voxel, inversion, echo"):
        SignalNormalizer().fit(unknown)
    twice = DataArray(X.reshape(-1, 8, 8), ("voxel", "TE", "EchoTime"))
    with pytest.raises(ValueError, match="TE and EchoTime are both TE"):
        SignalNormalizer().fit(twice)


def test_a_dimension_of_repetition_times():
    X, _ = make_correlation_signals(24, noise_level=0.05, random_state=3)
    coordinates = {"TE": ([5, 10, 20, 40], {}), "TR": ([0.5, 9], {"units": "s"})}
    array = DataArray(X[:, :8].reshape(-1, 2, 4), ("v", "TR", "TE"), coordinates)
    names = SignalNormalizer().fit(array).feature_names_in_
    assert names[:3].tolist() == ["TE5_TR500", "TE5_TR9000", "TE10_TR500"]
    del coordinates["TR"]
    without = DataArray(X[:, :8].reshape(-1, 2, 4), ("v", "TR", "TE"), coordinates)
    with pytest.raises(ValueError, match="no coordinates for the dimensions TR"):
        SignalNormalizer().fit(without)


def test_levels_named_as_in_bids(signals):
    X, _ = signals
    shuffled = np.random.default_rng(0).permutation(64)
    levels = pd.MultiIndex.from_arrays([GRID.ti, GRID.te], names=["InversionTime", "EchoTime"])
    table = pd.DataFrame(X, columns=levels).iloc[:, shuffled]
    model = load_pretrained("midl2024")
    np.testing.assert_array_equal(model.predict_proba(table), model.predict_proba(X))


# -- the protocol in `attrs` of a table --------------------------------------------


def test_a_table_has_what_names_lack():
    measured = AcquisitionProtocol(SCAN.contrasts, tr=20_000, series=np.arange(64) % 2)
    X, _ = make_correlation_signals(5, random_state=0)
    table = signals_table(X, measured)
    found = attached_protocol(table)
    assert found == measured
    assert found.feature_names == measured.feature_names
    some = attached_protocol(table.iloc[1:3, [7, 3]])
    assert some.feature_names == list(table.columns[[7, 3]])
    assert some.tr == 20_000
    assert attached_protocol(table.rename(columns={"TI50_TE12": "other"})) is None
    assert attached_protocol(X) is None
    assert attached_protocol(table.to_numpy()) is None


def test_the_aligner_compares_what_names_lack():
    X, _ = make_correlation_signals(5, random_state=0)
    table = signals_table(X[:, ORDER], SCAN)
    np.testing.assert_array_equal(ProtocolAligner().fit_transform(table), X)
    fitted = ProtocolAligner().fit(X)
    other = signals_table(X, AcquisitionProtocol(GRID.contrasts, tr=4000))
    for aligned in (lambda: ProtocolAligner().fit(other), lambda: fitted.transform(other)):
        with pytest.raises(ProtocolMismatchError, match="TR 4000 ms in place of no TR"):
            aligned()
    named = pd.DataFrame(X, columns=GRID.feature_names)
    np.testing.assert_array_equal(fitted.transform(named), X)  # without it, the trained TR
    with pytest.raises(ValueError, match="contradicts measured_protocol"):
        ProtocolAligner(measured_protocol=GRID).fit(other)
