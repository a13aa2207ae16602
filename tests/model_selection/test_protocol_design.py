"""Subsets of protocols, selected protocols and random protocols."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.exceptions import NotFittedError
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.feature_selection import (
    RFE,
    SelectFromModel,
    SelectKBest,
    SequentialFeatureSelector,
    VarianceThreshold,
)
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import (
    GridSearchCV,
    HalvingRandomSearchCV,
    ParameterSampler,
    RandomizedSearchCV,
)
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, Normalizer, StandardScaler

from corrsk import (
    AcquisitionProtocol,
    CorrelationSignalGenerator,
    SignalNormalizer,
    TissuePrior,
)
from corrsk.model_selection.protocol_design import (
    ProtocolGrids,
    ProtocolSelection,
    selected_protocol,
)

GRID = AcquisitionProtocol.named("ir-se-8x8")
SMALL = AcquisitionProtocol.from_grid(ti=[60, 500, 2000], te=[8, 40], tr=5000)


@pytest.fixture(scope="module")
def tissue():
    return TissuePrior.named("midl2024").sample(600, random_state=0)


@pytest.fixture(scope="module")
def signals(tissue):
    return simulate(GRID, tissue[0], noise_level=0.005, random_state=0)


def simulate(protocol, table, **settings):
    return CorrelationSignalGenerator(protocol, **settings).fit_transform(table)


def learner():
    return make_pipeline(SignalNormalizer(), GaussianNB())


# -- subsets of a protocol ---------------------------------------------------


def test_a_subset_keeps_order_and_tr():
    protocol = AcquisitionProtocol(ti=[900, 50, 400, 50], te=[20, 7.5, 20, 7.5], tr=5000)
    by_mask = protocol.subset([True, False, True, True])
    assert by_mask.ti.tolist() == [900, 400, 50]
    assert by_mask.te.tolist() == [20, 20, 7.5]
    assert by_mask.tr == 5000
    assert protocol.subset([3, 0, 2]).ti.tolist() == [900, 400, 50]  # not 50, 900, 400
    assert protocol.subset(np.array([1], dtype=np.uint8)).ti.tolist() == [50]


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        (np.ones(63, bool), "mask of 64 measurements needs 64 entries, got 63"),
        (np.zeros(64, bool), "nothing is selected"),
        ([], "nothing is selected"),
        ([0, 64], r"0\.\.63, got 0\.\.64"),
        ([-1, 3], r"0\.\.63, got -1\.\.3"),
        ([0, 1] * 32, "duplicate positions; a mask must be boolean"),
        ([0.0, 1.0], "mask of 64 booleans or a list of positions"),
        (np.ones((8, 8), bool), r"shape \(8, 8\)"),
    ],
)
def test_bad_subsets_are_refused(selection, message):
    with pytest.raises(ValueError, match=message):
        GRID.subset(selection)


@given(mask=st.lists(st.booleans(), min_size=64, max_size=64).filter(any), seed=st.integers(0, 99))
@settings(max_examples=15, deadline=None)
def test_signals_of_a_subset_equal_the_columns(mask, seed):
    table, _ = TissuePrior.named("midl2024").sample(10, random_state=seed)
    full = simulate(GRID, table, noise_level=0, dtype="float64")
    part = simulate(GRID.subset(mask), table, noise_level=0, dtype="float64")
    # up to rounding: grids are matrix products, scattered measurements are computed one by one
    np.testing.assert_allclose(part, full[:, mask], rtol=1e-12, atol=1e-15)


# -- protocol of a selection ---------------------------------------------------


@pytest.mark.parametrize(
    "selector",
    [
        SelectKBest(k=24),
        SelectFromModel(LogisticRegression(max_iter=50), max_features=10, threshold=-np.inf),
        RFE(
            make_pipeline(SignalNormalizer(), LinearDiscriminantAnalysis()),
            n_features_to_select=12,
            step=8,
            importance_getter="named_steps.lineardiscriminantanalysis.coef_",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:lbfgs failed")
def test_any_selector_gives_a_protocol(selector, signals, tissue):
    selector = clone(selector).fit(signals, tissue[1])
    selection = selected_protocol(selector, GRID)
    positions = selector.get_support(indices=True)
    assert selection.protocol.feature_names == [GRID.feature_names[i] for i in positions]
    assert selection.n_after == positions.size < selection.n_before == 64
    assert selection.saving == pytest.approx(1 - positions.size / 64)
    together = [*selection.protocol.feature_names, *selection.dropped.feature_names]
    assert sorted(together) == sorted(GRID.feature_names)


def test_sequential_selection_over_normalised_subsets(tissue):
    X = simulate(SMALL, tissue[0][:200], noise_level=0.01, random_state=0)
    over_sets = make_pipeline(SignalNormalizer(), LogisticRegression())
    selector = SequentialFeatureSelector(over_sets, n_features_to_select=3, cv=2)
    selection = selected_protocol(selector.fit(X, tissue[1][:200]), SMALL)
    assert selection.protocol == SMALL.subset(selector.get_support())
    assert selection.protocol.tr == 5000
    assert selection.time_saved == 3 * 5000
    assert repr(selection) == (
        "ProtocolSelection(3 of 6 measurements, 50 % saved (15 s per phase-encoding step))"
    )


def test_columns_are_in_the_order_of_the_protocol(signals, tissue):
    order = np.random.default_rng(0).permutation(64)
    scanned = AcquisitionProtocol(ti=GRID.ti[order], te=GRID.te[order], tr=9000)
    on_grid = SelectKBest(k=5).fit(signals, tissue[1])
    selector = SelectKBest(k=5).fit(scanned.to_scan_order(signals), tissue[1])
    chosen = selected_protocol(selector, scanned).protocol
    assert chosen.feature_names == list(np.array(scanned.feature_names)[selector.get_support()])
    assert set(chosen.feature_names) == set(GRID.subset(on_grid.get_support()).feature_names)
    assert chosen.tr == 9000
    # names determine the order of the columns, TR comes from the protocol
    frame = pd.DataFrame(signals, columns=GRID.feature_names)
    assert selected_protocol(SelectKBest(k=5).fit(frame, tissue[1]), scanned).protocol == chosen
    generator = CorrelationSignalGenerator(scanned, noise_level=0.01, random_state=0)
    pipeline = make_pipeline(generator, SelectKBest(k=5)).fit(*tissue)
    found = selected_protocol(pipeline).protocol
    assert found.feature_names == list(np.array(scanned.feature_names)[pipeline[-1].get_support()])


def test_feature_names_replace_the_protocol(signals, tissue):
    order = np.random.default_rng(0).permutation(64)
    frame = pd.DataFrame(signals, columns=GRID.feature_names).iloc[:, order]
    selector = SelectKBest(k=5).fit(frame, tissue[1])
    selection = selected_protocol(selector)
    names = selection.protocol.feature_names
    assert set(names) == set(selector.get_feature_names_out())
    assert names == list(selector.get_feature_names_out())
    assert selected_protocol(selector, GRID).protocol.feature_names == names
    with pytest.raises(ValueError, match="names of the columns are not those of the protocol"):
        selected_protocol(selector, AcquisitionProtocol(ti=GRID.ti, te=1.1 * GRID.te))
    assert selected_protocol(selector.fit(signals, tissue[1]), "ir-se-8x8").n_after == 5
    with pytest.raises(ValueError, match="pass `protocol`"):
        selected_protocol(selector)


def selecting_pipeline(*selectors, **settings):
    return make_pipeline(
        CorrelationSignalGenerator(noise_level=0.005, random_state=0, **settings),
        *selectors,
        SignalNormalizer(),
        GaussianNB(),
    )


@pytest.mark.parametrize("output", ["default", "pandas"])
def test_consecutive_selectors(tissue, output):
    pipeline = selecting_pipeline(
        "passthrough",
        VarianceThreshold(0.03),
        StandardScaler(),  # column by column, therefore valid
        Pipeline([("nothing", SignalNormalizer(norm=None)), ("some", SelectKBest(k=20))]),
        SelectKBest(k=7),
    ).set_output(transform=output)
    pipeline.fit(*tissue)
    selection = selected_protocol(pipeline)
    assert selection.n_before == 64
    assert selection.n_after == 7
    if output == "pandas":  # the names give the same result
        names = pipeline[:-2].transform(tissue[0]).columns
        assert selection.protocol.feature_names == list(names)
    first, second = pipeline[2].get_support(), pipeline[4][-1].get_support()
    positions = np.arange(64)[first][second][pipeline[5].get_support()]
    assert selection.protocol == GRID.subset(positions)
    assert not first.all()  # otherwise the composition would not be tested


def test_the_selected_protocol_has_the_selected_measurements(tissue):
    pipeline = selecting_pipeline(VarianceThreshold(0.03), SelectKBest(k=9), dtype="float64")
    pipeline.fit(*tissue)
    protocol = selected_protocol(pipeline).protocol
    noise_free = pipeline.set_params(correlationsignalgenerator__noise_level=0)
    np.testing.assert_allclose(
        simulate(protocol, tissue[0], noise_level=0, dtype="float64"),
        noise_free[:-2].transform(tissue[0]),
        rtol=1e-12,
        atol=1e-15,
    )


def test_a_search_over_the_number_of_measurements(tissue):
    search = GridSearchCV(selecting_pipeline(SelectKBest()), {"selectkbest__k": [2, 40]}, cv=2)
    with pytest.raises(NotFittedError):
        selected_protocol(search)
    selection = selected_protocol(search.fit(*tissue))
    assert selection.n_after == search.best_params_["selectkbest__k"]
    search.set_params(refit=False)
    with pytest.raises(ValueError, match="refit=True"):
        selected_protocol(clone(search).fit(*tissue))


def test_a_selector_that_drops_nothing(tissue):
    selection = selected_protocol(selecting_pipeline(SelectKBest(k="all")).fit(*tissue))
    assert selection.dropped is None
    assert selection.saving == 0
    assert selection.protocol == GRID


@pytest.mark.parametrize(
    "leak",
    [
        SignalNormalizer(),
        SignalNormalizer(norm="max"),
        Normalizer(),
        PCA(64),
        PCA(12),
        FunctionTransformer(np.fliplr),
    ],
)
@pytest.mark.parametrize("nested", [False, True])
def test_a_step_that_needs_dropped_measurements_is_refused(tissue, leak, nested):
    before = Pipeline([("inner", clone(leak))]) if nested else clone(leak)
    pipeline = selecting_pipeline(before, SelectKBest(k=5)).fit(*tissue)
    with pytest.raises(ValueError, match=f"{type(leak).__name__} mixes the measurements.*leak"):
        selected_protocol(pipeline)


def test_selections_without_a_matching_protocol_are_refused(tissue, signals):
    pipeline = selecting_pipeline(SelectKBest(k=5))
    with pytest.raises(NotFittedError):
        selected_protocol(pipeline)
    pipeline.fit(*tissue)
    with pytest.raises(ValueError, match="the Pipeline simulates .*but protocol="):
        selected_protocol(pipeline, SMALL)
    assert selected_protocol(pipeline, GRID) == selected_protocol(pipeline)
    with pytest.raises(ValueError, match="is a feature selector"):
        selected_protocol(selecting_pipeline().fit(*tissue))
    with pytest.raises(ValueError, match="among 64 columns, but there are 6"):
        selected_protocol(SelectKBest(k=5).fit(signals, tissue[1]), SMALL)
    on_signals = pipeline[1:].fit(signals, tissue[1])
    assert selected_protocol(on_signals, GRID).protocol == GRID.subset(on_signals[0].get_support())


# -- grids ---------------------------------------------------------------------


@given(
    low=st.floats(20, 100),
    width=st.floats(1, 50),
    ratio=st.floats(1.5, 6),
    n=st.integers(2, 12),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=60, deadline=None)
def test_grids_have_the_given_bounds_and_size(low, width, ratio, n, seed):
    high = low * ratio * width
    grids = ProtocolGrids(
        {"TI": (low, high), "TE": (4, 300)}, {"TI": n, "TE": 3}, min_ratio=ratio, tr=40_000
    )
    protocol = grids.rvs(random_state=seed)
    assert protocol.grid_shape == (n, 3)
    assert protocol.tr == 40_000
    for values, bounds in ((protocol.ti, (low, high)), (protocol.te, (4, 300))):
        levels = np.unique(values)
        assert bounds[0] <= levels[0]
        assert levels[-1] <= bounds[1]
        assert levels[-1] / levels[0] >= ratio * (1 - 1e-9)
        steps = np.diff(np.log(levels))
        np.testing.assert_allclose(steps, steps[0])
    assert protocol.feature_names == protocol.in_grid_order().feature_names
    assert grids.rvs(random_state=seed) == protocol
    assert grids.rvs(random_state=seed + 1) != protocol


def test_end_points_are_uniform_over_the_valid_pairs():
    grids = ProtocolGrids({"TE": (5, 500)}, n_levels=2, min_ratio=10)
    drawn = np.log10([protocol.te / 5 for protocol in grids.rvs(4000, random_state=0)])
    first, last = drawn[:, 0], drawn[:, 1]  # with 0 <= first, first + 1 <= last <= 2
    # a triangle of sides 1: its area grows with the square of the distance to its corner
    assert stats.kstest(1 - (1 - first) ** 2, "uniform").pvalue > 1e-3
    assert stats.kstest((last - 1) ** 2, "uniform").pvalue > 1e-3


def test_b_grids_may_contain_zero():
    grids = ProtocolGrids({"b": (0.1, 3), "TE": (10, 200)}, {"b": 4, "TE": 5})
    protocol = grids.rvs(random_state=np.random.RandomState(0))
    assert protocol.grid_shape == (5, 4)
    levels = np.unique(protocol.b)
    assert levels[0] == 0
    assert 0.1 <= levels[1] < levels[2] < levels[3] <= 3
    assert levels[2] / levels[1] == pytest.approx(levels[3] / levels[2])


def test_grid_distributions_compare_by_value():
    bounds = {"TI": (20, 4000), "TE": (4, 300)}
    grids = ProtocolGrids(bounds, 8)
    for twin in (copy.deepcopy(grids), pickle.loads(pickle.dumps(grids))):
        assert twin == grids
        assert twin.rvs(3, random_state=5) == grids.rvs(3, random_state=5)
    bounds["TI"] = (1, 2)
    assert grids.bounds["TI"] == (20, 4000)
    assert grids.rvs(0) == []
    assert grids.rvs() != grids.rvs()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bounds": {}}, "bounds must not be empty"),
        ({"bounds": {"TX": (1, 20)}}, "unknown scan parameter 'TX'"),
        ({"bounds": {"TI": (0, 4000)}}, "must be positive"),
        ({"bounds": {"TI": (4000, 20)}}, "min_ratio = 4 times low; got 4000 .. 20"),
        ({"bounds": {"TI": (1000, 3000)}}, "min_ratio = 4 times low"),
        ({"bounds": {"TI": (np.nan, 3000)}}, "must be positive"),
        ({"bounds": {"TI": 3000}}, r"must be \(low, high\), got 3000"),
        ({"bounds": {"TI": (0.02, 4)}}, "TI must be in ms"),
        ({"bounds": {"b": (200, 3000)}, "n_levels": 4}, "b must be in ms/um"),
        ({"bounds": {"TI": (20, 4000)}, "tr": 3000}, "must exceed the largest TI"),
        ({"bounds": {"TI": (20, 4000)}, "min_ratio": 1}, "min_ratio must be finite and exceed 1"),
        ({"bounds": {"TI": (20, 4000)}, "n_levels": {"TE": 8}}, "different scan parameters"),
        ({"bounds": {"TI": (20, 4000)}, "n_levels": 1}, "n_levels of TI must be at least 2"),
        ({"bounds": {"b": (0.1, 3)}, "n_levels": 2}, "n_levels of b must be at least 3"),
    ],
)
def test_impossible_grids_are_refused_before_the_first_draw(arguments, message):
    with pytest.raises(ValueError, match=message):
        ProtocolGrids(**arguments)


def test_the_number_of_levels_must_be_an_integer():
    with pytest.raises(TypeError, match="n_levels of TI must be an integer"):
        ProtocolGrids({"TI": (20, 4000)}, n_levels=2.5)


PROTOCOL = "correlationsignalgenerator__protocol"


@pytest.mark.parametrize(
    ("search_class", "settings"),
    [(RandomizedSearchCV, {"n_iter": 3}), (HalvingRandomSearchCV, {"min_resources": 150})],
)
def test_a_random_search_over_acquisitions(tissue, search_class, settings):
    grids = ProtocolGrids({"TI": (20, 4000), "TE": (4, 300)}, {"TI": 4, "TE": 3})
    pipeline = make_pipeline(
        CorrelationSignalGenerator(noise_level=0.001, random_state=0), *learner()
    )
    search = search_class(pipeline, {PROTOCOL: grids}, cv=2, random_state=0, **settings)
    again = clone(search).fit(*tissue)
    search.fit(*tissue)
    tried = [parameters[PROTOCOL] for parameters in search.cv_results_["params"]]
    assert {protocol.grid_shape for protocol in tried} == {(4, 3)}
    assert len(set(tried)) >= 3
    assert search.best_estimator_[0].protocol_ == search.best_params_[PROTOCOL]
    assert again.best_params_ == search.best_params_
    assert np.ptp(search.cv_results_["mean_test_score"]) > 0  # the protocol changes the data


def test_a_sampler_draws_new_protocols_each_time():
    grids = ProtocolGrids({"TI": (20, 4000), "TE": (4, 300)})
    drawn = [parameters["p"] for parameters in ParameterSampler({"p": grids}, 5, random_state=1)]
    assert len(set(drawn)) == 5
    assert drawn == [p["p"] for p in ParameterSampler({"p": grids}, 5, random_state=1)]


def test_grids_of_short_times():
    with pytest.raises(ValueError, match="TI must be in ms.*units='ms'"):
        ProtocolGrids({"TI": (0.1, 15)})
    short = ProtocolGrids({"TI": (0.1, 15), "TE": (0.05, 2)}, 4, tr=50, units="ms")
    assert short.rvs(random_state=0).ti.max() <= 15
    seconds = ProtocolGrids({"TI": (0.02, 4), "TE": (0.004, 0.3)}, 8, tr=5, units="s")
    plain = ProtocolGrids({"TI": (20, 4000), "TE": (4, 300)}, 8, tr=5000)
    assert seconds == plain
    assert hash(seconds) == hash(plain)
    assert seconds.rvs(random_state=1) == plain.rvs(random_state=1)
    # a drawn grid may be short, where the bounds are plausible
    low = ProtocolGrids({"TE": (0.5, 300)}, 3, min_ratio=2)
    assert min(protocol.te.max() for protocol in low.rvs(300, random_state=0)) < 5


def test_the_time_saved_is_that_of_the_dropped_measurements():
    protocol = AcquisitionProtocol(ti=[50, 400, 900, 2000], te=10, tr=[1000, 2000, 3000, 4000])

    def selection(kept):
        dropped = np.setdiff1d(np.arange(4), kept)
        return ProtocolSelection(protocol.subset(kept), protocol.subset(dropped))

    assert selection([0, 3]).time_saved == 5000
    assert selection([2, 3]).time_saved == 3000
    assert ProtocolSelection(protocol, None).time_saved == 0
    without = AcquisitionProtocol(ti=[50, 900], te=10)
    assert ProtocolSelection(without.subset([0]), without.subset([1])).time_saved is None
