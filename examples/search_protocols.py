"""Search over acquisitions for the inversion and echo times that count compartments best.

A random search draws 8 x 8 grids as it would draw a learning rate, and cross-validates
the whole Pipeline, simulation included. The number of measurements and the noise are
held constant: longer scans and quieter data always win, and teach nothing. The best
grid is then simulated afresh, since the winner of a search looks better than it is.
Prints a table beside the published protocol and writes search_protocols.png.
"""

import warnings

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import check_scoring
from sklearn.model_selection import RandomizedSearchCV, cross_validate
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline

from corrsk import (
    AcquisitionProtocol,
    CorrelationSignalGenerator,
    SignalNormalizer,
    TissuePrior,
)
from corrsk.evaluation import SCORERS
from corrsk.model_selection.protocol_design import ProtocolGrids

N_SAMPLES = 6_000
N_GRIDS = 16
SHOWN = {
    "accuracy": "4-class accuracy",
    "multicompartment_accuracy": "binary accuracy",
    "neg_log_loss": "log loss",
}

warnings.simplefilter("ignore", ConvergenceWarning)  # a few epochs are enough to rank protocols

# your tissue; and a learner that is fast and takes any protocol
prior = TissuePrior.named("midl2024")
tissue, n_c = prior.sample(N_SAMPLES, random_state=0)
pipeline = make_pipeline(
    CorrelationSignalGenerator(noise_level=(0.001, 0.003, 0.005), random_state=0, n_jobs=1),
    SignalNormalizer(),
    PCA(16, whiten=True),
    MLPClassifier((64, 64), batch_size=400, learning_rate_init=5e-3, max_iter=12, random_state=0),
)
# what your scanner can do: shortest and longest times in ms
grids = ProtocolGrids({"TI": (20, 5000), "TE": (3, 400)}, n_levels=8, min_ratio=8)
search = RandomizedSearchCV(
    pipeline,
    {"correlationsignalgenerator__protocol": grids},
    n_iter=N_GRIDS,
    scoring=SCORERS,
    refit="neg_log_loss",  # of two protocols it tells the better from fewer voxels than accuracy
    cv=2,
    n_jobs=2,
    random_state=0,
)
search.fit(tissue, n_c)


published = AcquisitionProtocol.named("ir-se-8x8")
order = np.argsort(search.cv_results_["rank_test_neg_log_loss"], kind="stable")
drawn = [search.cv_results_["params"][i]["correlationsignalgenerator__protocol"] for i in order]
table = {}


def add_row(name, protocol, scores, prefix):
    """Add the levels of a protocol and its scores to the table."""
    levels = {
        f"{axis} (ms)": f"{values.min():.4g} .. {values.max():.4g}"
        for axis, values in protocol.contrasts.items()
    }
    table[name] = levels | {
        title: f"{abs(np.mean(scores[prefix + score])):.3f}" for score, title in SHOWN.items()
    }


for place, i in enumerate(order[:4], start=1):
    scores = {name: values[i] for name, values in search.cv_results_.items()}
    add_row(f"place {place} of {N_GRIDS}", drawn[place - 1], scores, "mean_test_")
scores = cross_validate(pipeline, tissue, n_c, scoring=SCORERS, cv=2, n_jobs=2)
add_row("published 8 x 8", published, scores, "test_")

# afresh: other tissue and other noise, and more of both
more, n_c_more = prior.sample(3 * N_SAMPLES, random_state=1)
new, n_c_new = prior.sample(3 * N_SAMPLES, random_state=2)
judge = check_scoring(scoring=SCORERS)
for name, protocol in {"place 1": drawn[0], "published 8 x 8": published}.items():
    pipeline.set_params(
        correlationsignalgenerator__protocol=protocol, correlationsignalgenerator__random_state=1
    )
    add_row(f"{name}, afresh", protocol, judge(pipeline.fit(more, n_c_more), new, n_c_new), "")
print(pd.DataFrame(table).T.to_string())

# each grid a row, the best on top: where its levels lie, and how it did
losses = [
    *-search.cv_results_["mean_test_neg_log_loss"][order],
    -scores["test_neg_log_loss"].mean(),
]
candidates = [*drawn, published]
figure = Figure(figsize=(10, 5.2), layout="constrained")
axes = figure.subplots(1, 3, sharey=True)
for row, i in enumerate(np.argsort(losses)):
    colour = "tab:red" if candidates[i] is published else "tab:blue"
    for ax, (axis, values) in zip(axes[:2], candidates[i].contrasts.items(), strict=True):
        levels = np.unique(values)
        ax.plot(levels, np.full(levels.size, row), "|-", color=colour, lw=1, ms=9, mew=2)
        ax.set(xscale="log", xlabel=f"{axis} (ms)", title=f"levels of {axis}")
        ax.xaxis.set_major_formatter("{x:g}")
    axes[2].plot(losses[i], row, "o", color=colour)
    if candidates[i] is published:
        axes[2].annotate(
            "published 8 x 8",
            (losses[i], row),
            xytext=(8, -3),
            textcoords="offset points",
            color=colour,
        )
axes[0].set(yticks=range(len(losses)), yticklabels=range(1, len(losses) + 1), ylabel="place")
axes[0].invert_yaxis()
axes[2].set(xlabel="log loss, 4 classes (cross-validated)", title="lower is better")
axes[2].grid(axis="x", alpha=0.3)
figure.savefig("search_protocols.png", dpi=120)
print("wrote search_protocols.png")
