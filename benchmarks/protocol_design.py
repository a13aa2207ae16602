"""Smallest selection of the 64 measurements that keeps the accuracy within one point.

Several methods rank the measurements on training signals. For each method and number
of measurements k, signals of the protocol are then simulated with new tissue and noise,
a learner that takes any protocol is trained on these signals, and tested on
fresh test signals. The smallest k whose 4-class and binary accuracy are both within one
point of those of the full protocol is reported, with its measurements; the best of these is
confirmed with other seeds, because the best of many candidates is biased upwards.

The rankings:

- forward: greedy; adds the measurement with which a quadratic discriminant on eight
  whitened components has the least log loss on held-out signals;
- information: adds the measurement with the most information about the signals beyond the
  measurements before it, in the Gaussian approximation (greedy log-determinant);
- elimination: scikit-learn's RFE; drops the measurements whose replacement by a prediction
  from the others increases the log loss of a learner least;
- trees: RFE with the importances of extremely randomised trees;
- thinned grid: some levels of TI times some of TE (only sizes that are such a grid);
- random: two random orders, for comparison.

All methods normalise the signals after the selection, except for `information`,
whose ranking needs no exact signals. All are trained on the same tissue and tested on the
same test tissue, so that differences are paired: the standard error is that of the
difference voxel by voxel, and the seeds show the scatter between trainings.

Not included: plain LDA and QDA as learners of the forward selection. On all 64 measurements
they reach 38 and 31 % (30,000 low-noise signals), the quadratic discriminant on
components 45 %, the learner of the tests 59 %.

Every finished training is stored in protocol_design.<data set>.partial.json; the same
command resumes an interrupted run.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from _measure import RESULTS, record
from joblib import Parallel, delayed
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_selection import RFE
from sklearn.metrics import log_loss
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures

from corrsk import (
    AcquisitionProtocol,
    SignalNormalizer,
    make_correlation_signals,
)
from corrsk._utils.files import write_json
from corrsk.simulation.datasets import dataset_definition

SIZES = (6, 8, 12, 16, 24, 32, 36, 40, 48, 56, 64)
DATASETS = ("midl2024-low-noise", "midl2024")
TARGET = 0.01  # of accuracy
RANDOM_ORDERS = 2
# (levels of TI, levels of TE) by size; all shapes of a size are tried
THINNED_SHAPES = {
    6: [(2, 3), (3, 2)], 8: [(2, 4), (4, 2)], 12: [(3, 4), (4, 3)], 16: [(4, 4)],
    24: [(4, 6), (6, 4)], 32: [(4, 8), (8, 4)], 36: [(6, 6)], 40: [(5, 8), (8, 5)],
    48: [(6, 8), (8, 6)], 56: [(7, 8), (8, 7)],
}  # fmt: skip
FULL = {"ranking": 16_000, "train": 60_000, "test": 100_000, "epochs": 12, "seeds": 1}
QUICK = {"ranking": 1_000, "train": 3_000, "test": 5_000, "epochs": 4, "seeds": 1}
# independent random streams: ranking, test and training data have no common signals
RANKING_SEED, TEST_SEED, TRAINING_SEED = 100, 200, 300
CONFIRMATION = 1000  # added to the seeds


def learner(n_measurements: int, epochs: int, seed: int = 0) -> Any:
    """Create a strong learner for any protocol: an MLP on whitened principal components."""
    return make_pipeline(
        SignalNormalizer(),
        # further components are mostly noise, which whitening would amplify
        PCA(min(16, n_measurements), whiten=True, random_state=0),
        MLPClassifier(
            (64, 64), batch_size=500, learning_rate_init=3e-3, max_iter=epochs, random_state=seed
        ),
    )


class LossWithout(ClassifierMixin, BaseEstimator):
    """Classifier whose importances are the increase of the log loss without each measurement.

    A measurement is replaced by its linear regression on all others, so that redundant
    information does not count.
    """

    def __init__(self, epochs: int = 8) -> None:
        self.epochs = epochs

    def fit(self, X: NDArray[Any], y: NDArray[Any]) -> LossWithout:
        """Fit on one half of the signals and compute importances on the other."""
        fitted = learner(X.shape[1], self.epochs).fit(X[::2], y[::2])
        self.classes_ = fitted.classes_
        X, y = X[1::2].astype(np.float64), y[1::2]
        # all regressions at once, from the inverse of X'X
        inverse = np.linalg.inv(X.T @ X)
        guessed = X - X @ inverse / np.diag(inverse)
        losses = []
        for j in range(X.shape[1]):
            without = X.copy()
            without[:, j] = guessed[:, j]
            losses.append(log_loss(y, fitted.predict_proba(without)))
        self.feature_importances_ = np.array(losses) - log_loss(y, fitted.predict_proba(X))
        return self


def by_information(X: NDArray[Any], noise_level: float) -> NDArray[np.intp]:
    """Order measurements by their information beyond the measurements before.

    Greedy maximisation of ``log det(1 + C_AA / sigma^2)``, the information of a set A
    of measurements about Gaussian signals of covariance C with noise of standard
    deviation sigma. Signals are divided by the norm over all measurements here, for the
    ranking only: every protocol is tested with the norm of its own measurements.
    """
    norms = np.linalg.norm(X, axis=1, keepdims=True)
    covariance = np.cov((X / norms).T.astype(np.float64))
    covariance /= np.mean((noise_level / norms) ** 2)
    order: list[int] = []
    left = list(range(X.shape[1]))
    conditional = covariance.copy()
    while left:
        j = left[int(np.argmax(np.diag(conditional)[left]))]
        order.append(j)
        left.remove(j)
        # condition on a noisy measurement of j, with noise of variance 1
        conditional -= np.outer(conditional[j], conditional[j]) / (1 + conditional[j, j])
    return np.array(order)


def by_forward_selection(X: NDArray[Any], y: NDArray[Any]) -> NDArray[np.intp]:
    """Order measurements by forward selection with a quadratic discriminant."""
    # the first measurement is chosen by variance: a normalised single measurement is only a sign
    order = [int(np.argmax(X.var(axis=0)))]
    while len(order) < X.shape[1]:
        losses = {}
        for j in sorted(set(range(X.shape[1])) - set(order)):
            chosen = X[:, [*order, j]]
            discriminant = make_pipeline(
                SignalNormalizer(),
                PCA(min(8, chosen.shape[1]), whiten=True, svd_solver="covariance_eigh"),
                PolynomialFeatures(2),
                LinearDiscriminantAnalysis(solver="lsqr", shrinkage=1e-6),
            ).fit(chosen[::2], y[::2])
            losses[j] = log_loss(y[1::2], discriminant.predict_proba(chosen[1::2]))
        order.append(min(losses, key=losses.__getitem__))
    return np.array(order)


def by_elimination(estimator: Any, getter: Any, X: Any, y: Any) -> NDArray[np.intp]:
    """Order measurements by elimination, the last eliminated first."""
    elimination = RFE(estimator, n_features_to_select=6, step=2, importance_getter=getter)
    return np.argsort(elimination.fit(X, y).ranking_, kind="stable")


def rankings(
    simulate: Callable[..., Any], noise_level: float, settings: dict[str, int]
) -> dict[str, list[int]]:
    """Rank the 64 measurements by each method, the most useful first."""
    X, y = simulate(AcquisitionProtocol.named("ir-se-8x8"), settings["ranking"], RANKING_SEED)
    trees = make_pipeline(
        SignalNormalizer(),
        ExtraTreesClassifier(50, min_samples_leaf=5, n_jobs=2, random_state=0),
    )
    trees_importances = "named_steps.extratreesclassifier.feature_importances_"
    orders = {
        "forward": by_forward_selection(X, y),
        "information": by_information(X, noise_level),
        "elimination": by_elimination(LossWithout(settings["epochs"]), "auto", X, y),
        "trees": by_elimination(trees, trees_importances, X, y),
    }
    for number in range(RANDOM_ORDERS):
        orders[f"random {number + 1}"] = np.random.default_rng(number).permutation(X.shape[1])
    return {name: [int(j) for j in order] for name, order in orders.items()}


def candidates(orders: dict[str, list[int]]) -> Iterator[tuple[str, int, list[int]]]:
    """Yield every candidate protocol: method, number of measurements, their positions."""
    yield "full", 64, list(range(64))
    positions = np.arange(64).reshape(8, 8)
    for size in SIZES[:-1]:
        for method, order in orders.items():
            yield method, size, sorted(order[:size])
        for n_ti, n_te in THINNED_SHAPES[size]:
            evenly = [np.round(np.linspace(0, 7, n)).astype(int) for n in (n_ti, n_te)]
            kept = positions[np.ix_(*evenly)].ravel()
            yield f"thinned grid, {n_ti} TI x {n_te} TE", size, kept.tolist()


def right_answers(
    simulate: Callable[..., Any], positions: list[int], settings: dict[str, int], offset: int = 0
) -> NDArray[np.bool_]:
    """Whether the predictions are right, (seeds, 2, n_samples): 4-class and binary."""
    warnings.simplefilter("ignore", ConvergenceWarning)  # the number of epochs is fixed
    protocol = AcquisitionProtocol.named("ir-se-8x8").subset(positions)
    X_test, y_test = simulate(protocol, settings["test"], TEST_SEED + offset)
    answers = []
    for seed in range(settings["seeds"]):
        X, y = simulate(protocol, settings["train"], TRAINING_SEED + offset + seed)
        fitted = learner(len(positions), settings["epochs"], seed).fit(X, y)
        probabilities = fitted.predict_proba(X_test)
        count = fitted.classes_[probabilities.argmax(axis=1)] == y_test
        binary = (probabilities[:, 1:].sum(axis=1) > 0.5) == (y_test > 1)
        answers.append((count, binary))
    return np.array(answers)


def summary(right: NDArray[Any], full: NDArray[Any]) -> dict[str, Any]:
    """Accuracies in %, and the loss relative to the full protocol in percentage points."""
    result: dict[str, Any] = {}
    for i, name in enumerate(("4-class", "binary")):
        lost = 100 * (full[:, i].mean(axis=0) - right[:, i].mean(axis=0))  # voxel by voxel
        result[name] = {
            "accuracy": round(100 * float(right[:, i].mean()), 2),
            "lost": round(float(lost.mean()), 2),
            "standard error": round(float(lost.std() / np.sqrt(lost.size)), 2),
            "accuracy by seed": [
                round(100 * float(accuracy), 2) for accuracy in right[:, i].mean(axis=1)
            ],
        }
    return result


def simulator(dataset: str) -> Callable[..., Any]:
    """Return ``simulate(protocol, n, seed)``, which gives signals before normalisation, counts."""
    definition = dataset_definition(dataset)
    return partial(_simulate, definition.noise_levels, definition.noise_reference)


def _simulate(levels: Any, reference: str, protocol: Any, n: int, seed: int) -> Any:
    return make_correlation_signals(
        n, protocol=protocol, noise_level=levels, noise_reference=reference, norm=None,
        random_state=seed, n_jobs=1, verbose=False,
    )  # fmt: skip


def design(dataset: str, settings: dict[str, int], path: Path) -> dict[str, Any]:
    """Rank, simulate and test the protocols; results of an earlier run are reused."""
    simulate = simulator(dataset)
    done: dict[str, Any] = {"settings": settings, "judged": {}}
    if path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["settings"] == settings:
            done = found
        else:
            print(f"{path} has other settings: starting from scratch")
    if "rankings" not in done:
        levels = np.array(dataset_definition(dataset).noise_levels)
        done["rankings"] = rankings(simulate, float(np.sqrt(np.mean(levels**2))), settings)
        write_json(path, done)
    left = {
        f"{method}; {size}": positions
        for method, size, positions in candidates(done["rankings"])
        if f"{method}; {size}" not in done["judged"]
    }
    if left:
        # reproducible by the seeds, so that the result is not stored
        full = right_answers(simulate, list(range(64)), settings)
        answers = Parallel(n_jobs=2, return_as="generator")(
            delayed(right_answers)(simulate, positions, settings) for positions in left.values()
        )
        for key, right in zip(left, answers, strict=True):
            done["judged"][key] = summary(right, full)
            write_json(path, done)
            scores = {name: score["accuracy"] for name, score in done["judged"][key].items()}
            print(f"{dataset}: {key} measurements: {scores}", flush=True)
    if "confirmed" not in done:
        done["fewest"] = smallest(done)
        done["confirmed"] = confirmed(simulate, done["fewest"], settings)
        write_json(path, done)
    return done


def confirmed(
    simulate: Callable[..., Any], fewest: dict[str, Any], settings: dict[str, int]
) -> dict[str, Any]:
    """Test the best method again, on tissue that was not used for the choice."""
    if not fewest:
        return {}
    family = min(fewest, key=lambda name: (fewest[name]["k"], max(fewest[name]["lost"].values())))
    grid = AcquisitionProtocol.named("ir-se-8x8")
    positions = [grid.feature_names.index(name) for name in fewest[family]["measurements"]]
    right = right_answers(simulate, positions, settings, CONFIRMATION)
    full = right_answers(simulate, list(range(64)), settings, CONFIRMATION)
    return {"method": family, "k": len(positions), **summary(right, full)}


def smallest(done: dict[str, Any]) -> dict[str, Any]:
    """Return, for each method, the fewest measurements that lose at most one point."""
    names = AcquisitionProtocol.named("ir-se-8x8").feature_names
    found: dict[str, Any] = {}
    for method, size, positions in candidates(done["rankings"]):
        scores = done["judged"][f"{method}; {size}"]
        kept = all(score["lost"] <= 100 * TARGET for score in scores.values())
        family = method.split(",")[0]
        if kept and method != "full" and size < found.get(family, {"k": 64})["k"]:
            found[family] = {
                "k": size, "which": method,
                "lost": {name: score["lost"] for name, score in scores.items()},
                "measurements": [names[j] for j in positions],
            }  # fmt: skip
    return found


def plot(results: dict[str, Any], path: Path) -> None:
    """Plot the loss of accuracy over the number of measurements."""
    figure = Figure(figsize=(11, 4 * len(results)), layout="constrained")
    axes = figure.subplots(len(results), 2, sharex=True, squeeze=False)
    styles = {
        "forward": ("tab:purple", "v", "forward selection"),
        "information": ("tab:blue", "o", "information"),
        "elimination": ("tab:orange", "s", "elimination"),
        "trees": ("tab:green", "^", "elimination by trees"),
        "thinned grid": ("tab:red", "D", "thinned grid (the better shape)"),
        "random": ("tab:gray", "x", f"random (mean of {RANDOM_ORDERS})"),
    }
    for row, (dataset, done) in zip(axes, results.items(), strict=True):
        for ax, question in zip(row, ("4-class", "binary"), strict=True):
            for family, (colour, marker, label) in styles.items():
                at: dict[int, list[tuple[float, float]]] = {}
                for key, scores in done["judged"].items():
                    method, size = key.split("; ")
                    if method.startswith(family):
                        score = scores[question]
                        at.setdefault(int(size), []).append(
                            (score["lost"], score["standard error"])
                        )
                sizes = sorted(at)
                # the better of two thinned grids, the mean of the random orders
                choose = np.mean if family == "random" else np.min
                lost = [choose([value for value, _ in at[size]]) for size in sizes]
                errors = [2 * max(error for _, error in at[size]) for size in sizes]
                ax.errorbar(
                    sizes, lost, errors, color=colour, marker=marker, ms=5, lw=1, label=label
                )
            ax.axhline(100 * TARGET, ls="--", color="black", lw=1)
            ax.annotate("one point", (6, 100 * TARGET), xytext=(0, 4),
                        textcoords="offset points", fontsize=9)  # fmt: skip
            full = done["judged"]["full; 64"][question]["accuracy"]
            ax.set(
                title=f"{dataset}, {question} (all 64: {full:.1f} %)",
                ylabel="accuracy lost (points)", xticks=SIZES[:-1],
            )  # fmt: skip
            ax.grid(alpha=0.3)
    for ax in axes[-1]:
        ax.set_xlabel("number of measurements")
    axes[0, 0].legend(fontsize=9)
    figure.savefig(path, dpi=120)
    print(f"wrote {path}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small settings, nothing recorded")
    parser.add_argument("--folder", type=Path, default=RESULTS, help="for unfinished results")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    settings = QUICK if arguments.quick else FULL
    stem = "protocol_design.quick" if arguments.quick else "protocol_design"
    arguments.folder.mkdir(parents=True, exist_ok=True)
    partials = {name: arguments.folder / f"{stem}.{name}.partial.json" for name in DATASETS}
    results = {name: design(name, settings, path) for name, path in partials.items()}
    found = {
        name: {
            "fewest within one point": done["fewest"],
            "the best of these, afresh": done["confirmed"],
            "order of measurements": done["rankings"],
            "judged": done["judged"],
        }
        for name, done in results.items()
    }
    if arguments.quick:
        plot(results, arguments.folder / f"{stem}.png")
        print(json.dumps({name: list(part.values())[:2] for name, part in found.items()}, indent=1))
        return
    plot(results, RESULTS / "protocol_design.png")
    record("protocol_design", {"settings": settings, "points": 100 * TARGET, **found})
    for path in partials.values():
        path.unlink()


if __name__ == "__main__":
    main()
