"""
Search over network and acquisition at once
===========================================

Two protocols of the same length and two learning rates in one ``GridSearchCV``, judged by the
question "more than one compartment?".
"""

import numpy as np
import pandas as pd
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from corrsk import (
    AcquisitionProtocol,
    CorrelationCNNClassifier,
    CorrelationSignalGenerator,
    SignalNormalizer,
    StackedGridSearchCV,
    TissuePrior,
)
from corrsk.evaluation import SCORERS

# %%
# The whole Pipeline is the estimator
# -----------------------------------
# The protocol is one of its parameters. With names such as TI50_TE4.5 between the steps, the CNN
# recognises the grid of each candidate.

tissue, n_c = TissuePrior.named("midl2024").sample(6_000, random_state=0)
pipeline = make_pipeline(
    CorrelationSignalGenerator(noise_level=(0.001, 0.005), random_state=0),
    SignalNormalizer(),
    CorrelationCNNClassifier(max_epochs=4, random_state=0),
).set_output(transform="pandas")
protocols = {
    "published 8 x 8": AcquisitionProtocol.named("ir-se-8x8"),
    "late echoes 8 x 8": AcquisitionProtocol.from_grid(
        ti=np.geomspace(50, 2000, 8), te=np.geomspace(20, 400, 8)
    ),
}
search = GridSearchCV(
    pipeline,
    {
        "correlationsignalgenerator__protocol": list(protocols.values()),
        "correlationcnnclassifier__learning_rate": [0.001, 0.01],
    },
    scoring=SCORERS,
    refit="multicompartment_roc_auc",
    cv=3,
)
search.fit(tissue, n_c)

# %%
# The candidates
# --------------

names = {protocol: name for name, protocol in protocols.items()}
found = search.cv_results_
results = pd.DataFrame(
    {
        "protocol": [names[p["correlationsignalgenerator__protocol"]] for p in found["params"]],
        "learning rate": found["param_correlationcnnclassifier__learning_rate"],
        "4-class accuracy": found["mean_test_accuracy"],
        "binary accuracy": found["mean_test_multicompartment_accuracy"],
        "binary AUC": found["mean_test_multicompartment_roc_auc"],
    }
)
print(results.round(3).to_string(index=False))
print("best:", names[search.best_params_["correlationsignalgenerator__protocol"]])

# %%
# Networks that train together
# ----------------------------
# On a GPU, ``StackedGridSearchCV`` trains the networks of all candidates that differ in settings
# such as the learning rate together. Without a GPU it is scikit-learn's search.

stacked = StackedGridSearchCV(
    pipeline, {"correlationcnnclassifier__learning_rate": [0.001, 0.01]}, cv=2
)
stacked.fit(tissue, n_c)
print("best learning rate:", stacked.best_params_["correlationcnnclassifier__learning_rate"])
