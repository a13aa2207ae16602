"""
Whole experiments: reproduction and comparison
==============================================

The commands ``corrsk reproduce`` and ``corrsk compare`` from Python, at a very small size. Both
write a folder with tables, figures and a report, and resume where they were stopped.
"""

import logging
import tempfile
from pathlib import Path

from rich.console import Console

from corrsk.workflows.comparison import (
    MODELS,
    ComparedModel,
    Comparison,
    ComparisonSettings,
    compare,
)
from corrsk.workflows.paper import T1T2_DETR_ACCURACY
from corrsk.workflows.reproduction import RECIPES, Configuration, paper_reference, reproduce

# %%
# The paper's experiment
# ----------------------
# The paper's size is ``n_samples=1_000_000``; recipes are named trainings.


def reproduction(out):
    """Train the CNN, judge it beside the paper's figures, and list the files of the report."""
    print("recipes:", *RECIPES)
    evaluation = reproduce(Configuration(n_samples=5_000, epochs=3), out)
    reference = paper_reference(evaluation)
    print(evaluation.to_frame(reference).dropna().round(3).to_string())
    print(*sorted(path.name for path in out.iterdir()), sep="\n")


# %%
# Models on the same data
# -----------------------
# Learning curves of any of these models; each model runs in a process of its own.


def comparison_of_models(out):
    """Train two models on two numbers of signals, and print their accuracies."""
    listed: list[ComparedModel] = list(MODELS.values())
    for model in listed[:4]:
        print(f"{model.name:20}{model.description} ({model.kind})")
    settings = ComparisonSettings(
        models=("logistic", "lda"), train_sizes=(300, 1_000), n_samples=3_000, n_test_samples=300
    )
    console = Console(quiet=True)  # without a display of the progress
    comparison: Comparison = compare(settings, out, n_jobs=1, console=console)
    columns = ["model", "n_train", "accuracy", "accuracy_low", "accuracy_high"]
    print(comparison.summary[columns].round(3).to_string(index=False))


# %%
# Both, in a temporary folder
# ---------------------------
# The processes of the comparison import this script, hence the guard.

if __name__ == "__main__":
    logging.getLogger("corrsk").setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        reproduction(Path(folder) / "reproduction")
        comparison_of_models(Path(folder) / "comparison")
    print("count accuracy of the thesis t1t2-detr by SNR:", T1T2_DETR_ACCURACY)
