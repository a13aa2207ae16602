"""Parameters of models under the names of stored runs.

The first version of the files had one class for all networks. A stored run is identified by the
text of its parameters. The text must not change if only the name of a parameter changes, because
stored runs would be repeated otherwise. The bounds of the model-based methods were the paper's
ranges by default; they now are the ranges of the data set.
"""

from __future__ import annotations

from typing import Any

from sklearn.base import BaseEstimator, clone
from sklearn.pipeline import Pipeline

from corrsk.neural._base import NetworkClassifier

_FIRST_BOUNDS = {"T1": (50.0, 5000.0), "T2": (5.0, 500.0)}


class CorrelationCNNClassifier(BaseEstimator):
    """Parameters of the class of this name in the first version; never fitted."""

    def __init__(
        self,
        network: Any = "cnn",
        grid_shape: Any = "auto",
        width: int = 256,
        n_blocks: int = 3,
        dropout: float = 0.0,
        input_scaling: str | None = "standardize",
        optimizer: str = "adamw",
        learning_rate: float = 0.01,
        learning_rate_schedule: str = "one-cycle",
        momentum: float = 0.9,
        weight_decay: float = 0.01,
        max_epochs: int = 40,
        batch_size: Any = "auto",
        precision: str = "float32",
        kernel: str = "auto",
        softmax_before_loss: bool = False,
        class_weight: Any = None,
        validation_fraction: float | None = None,
        n_iter_no_change: int | None = None,
        restore_best: bool = True,
        device: str = "auto",
        checkpoint: Any = None,
        random_state: Any = None,
        verbose: bool = True,
    ) -> None:
        for name, value in list(locals().items()):
            if name != "self":
                setattr(self, name, value)


def as_stored(model: Any) -> Any:
    """Return a Pipeline with the parameters of its last step under their stored names.

    Parameters
    ----------
    model : Pipeline or classifier
        Unfitted; returned unchanged unless it is a Pipeline that ends in a network classifier or
        in a model-based method with the bounds of the first version.

    Returns
    -------
    Pipeline or classifier
        The model whose parameters have the stored names.
    """
    if not isinstance(model, Pipeline):
        return model
    bounds = model[-1].get_params().get("bounds") or {}
    if {name: (range_.low, range_.high) for name, range_ in bounds.items()} == _FIRST_BOUNDS:
        return clone(model).set_params(**{f"{model.steps[-1][0]}__bounds": None})
    if not isinstance(model[-1], NetworkClassifier):
        return model
    classifier = model[-1]
    parameters = classifier.get_params()
    for name in ("callbacks", "warm_start"):  # no model of the comparison has them
        parameters.pop(name)
    parameters["network"] = classifier._architecture_name
    parameters["kernel"] = parameters.pop("backend").replace("numba", "compiled")
    if parameters["momentum"] is None:
        del parameters["momentum"]
    # later parameters count only where they have another value than the default, which is the
    # behaviour of the first version
    names = CorrelationCNNClassifier._get_param_names()
    default = type(classifier)().get_params()
    later = {name for name in default.keys() - set(names) if parameters.get(name) == default[name]}
    stored = CorrelationCNNClassifier(
        **{name: value for name, value in parameters.items() if name not in later}
    )
    return Pipeline([*model.steps[:-1], ("correlationcnnclassifier", stored)])
