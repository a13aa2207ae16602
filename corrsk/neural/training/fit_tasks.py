"""Bridge from the epochs of a training to scikit-learn's callbacks (`set_callbacks`)."""

from __future__ import annotations

from typing import Any

from skorch.callbacks import Callback

from corrsk.neural.training.callbacks import StopTraining
from corrsk.neural.training.net import history_rows
from corrsk.neural.training.prediction import snapshot
from corrsk.neural.training.settings import TrainingSettings
from corrsk.neural.training.sources import ArraySource, Source


class FitTasks:
    """Tasks of a fit for scikit-learn's callbacks: the whole fit, and one task for each epoch.

    Parameters
    ----------
    estimator : NetworkEstimator
        Estimator in `fit`.
    context : sklearn.callback.CallbackContext or None
        Context of the fit; None before scikit-learn 1.9.
    data : dict
        Arguments X, y and metadata of the callbacks.
    n_classes : int or None
        Number of classes; None for a regression.
    """

    def __init__(
        self, estimator: Any, context: Any, data: dict[str, Any], n_classes: int | None
    ) -> None:
        self._estimator = estimator
        self._context = context
        self._data = data
        self._n_classes = n_classes

    @classmethod
    def from_estimator(cls, estimator: Any, source: Source, settings: TrainingSettings) -> FitTasks:
        """Begin the fit of an estimator."""
        data: dict[str, Any] = {}
        if isinstance(source, ArraySource):
            y, classes = source.y, getattr(estimator, "classes_", None)
            data = {"X": source.X, "y": y if classes is None else classes[y]}
            if source.sample_weight is not None:
                data["metadata"] = {"sample_weight": source.sample_weight}
        context = None
        if hasattr(estimator, "_init_callback_context"):
            context = estimator._init_callback_context(max_subtasks=settings.max_epochs)
            context.call_on_fit_task_begin(estimator=estimator, **data)
        n_classes = settings.n_outputs if settings.is_classifier else None
        return cls(estimator, context, data, n_classes)

    @property
    def callbacks(self) -> list[tuple[str, Callback]]:
        """Callback of the skorch net that reports the epochs; none if nobody listens."""
        if self._context is None or not getattr(self._estimator, "_skl_callbacks", None):
            return []
        return [("fit_tasks", _EpochTasks(self))]

    def begin_epoch(self) -> None:
        """Report the begin of an epoch."""
        self._epoch = self._context.subcontext(task_name="epoch")
        self._epoch.call_on_fit_task_begin(estimator=self._estimator, **self._data)

    def end_epoch(self, net: Any) -> bool:
        """Report the end of an epoch; return whether a callback stops the training."""
        stop: bool = self._epoch.call_on_fit_task_end(
            estimator=self._estimator, **self._data,
            reconstruction_attributes=lambda: {
                "net_": snapshot(net, self._n_classes), "history_": history_rows(net)
            },
        )  # fmt: skip
        return stop

    def end(self) -> None:
        """Report the end of the fit."""
        if self._context is not None:
            self._context.call_on_fit_task_end(
                estimator=self._estimator, **self._data, reconstruction_attributes={}
            )


class _EpochTasks(Callback):
    """Report the epochs of a net.

    Parameters
    ----------
    tasks : FitTasks
        Tasks of the fit.
    """

    def __init__(self, tasks: FitTasks) -> None:
        self.tasks = tasks

    def on_epoch_begin(self, net: Any, **kwargs: Any) -> None:
        self.tasks.begin_epoch()

    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        if self.tasks.end_epoch(net):
            raise StopTraining
