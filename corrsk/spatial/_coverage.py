"""Noise that a classifier was trained for, compared with that of signals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from corrsk.simulation.definition import DatasetDefinition
from corrsk.trained.expectation import ExpectedSignals, expected_signals


@dataclass(frozen=True, eq=False)
class Coverage:
    """Range of the noise in the training of a classifier.

    Parameters
    ----------
    model : classifier
        Fitted classifier.
    absolute : tuple of float or None
        Lowest and highest sigma in the unit of the signals.
    expected : ExpectedSignals or None
        Signals that the model was trained for, whose noise levels have a reference.
    """

    TOLERANCE: ClassVar[float] = 1.25  # factor beyond either end of the range
    SHARE: ClassVar[float] = 0.05  # of the voxels beyond it, without a warning

    model: Any
    absolute: tuple[float, float] | None = None
    expected: ExpectedSignals | None = None

    @classmethod
    def of_all(cls, models: list[Any], noise_range: Any) -> list[Coverage]:
        """Find the ranges of classifiers; see `noise_range` of :class:`SpatialClassifier`.

        Raises
        ------
        ValueError
            If `noise_range` is invalid, or one of several ranges is unknown.
        """
        if noise_range is None:
            found = [cls.of_model(model) for model in models]
            unknown = [type(each.model).__name__ for each in found if not each.is_known]
            if unknown and len(models) > 1:
                raise ValueError(
                    f"the noise of the training of {unknown[0]} is unknown; several classifiers "
                    "need noise_range, one pair (low, high) for each"
                )
            return found
        ranges = np.atleast_2d(np.asarray(noise_range, dtype=np.float64))
        valid = ranges.shape == (len(models), 2) and np.isfinite(ranges).all()
        if not valid or (ranges <= 0).any() or (ranges[:, 0] > ranges[:, 1]).any():
            raise ValueError(
                f"noise_range must have one pair 0 < low <= high for each of the {len(models)} "
                f"classifiers, got {noise_range!r}"
            )
        return [
            cls(model, (float(low), float(high)))
            for model, (low, high) in zip(models, ranges, strict=True)
        ]

    @classmethod
    def of_model(cls, model: Any) -> Coverage:
        """Find the range of a model from the definition of its training signals, if it has one."""
        definition = getattr(model, "definition", None)
        if not isinstance(definition, DatasetDefinition):
            return cls(model)
        return cls(model, None, expected_signals(definition))

    @property
    def is_known(self) -> bool:
        """Whether the range is known."""
        return self.absolute is not None or self.expected is not None

    def excess(self, signals: Any, sigma: NDArray[np.float64]) -> NDArray[np.float64]:
        """Logarithm of the factor by which the noise is outside the range.

        Parameters
        ----------
        signals : array or DataFrame of shape (n_voxels, n_measurements)
            Signals, none of them zero.
        sigma : ndarray of shape (n_voxels,)
            Standard deviation of their noise.

        Returns
        -------
        ndarray of shape (n_voxels,)
            0 within the range, positive on either side; NaN if the range is unknown.
        """
        if self.expected is not None:
            aligned = self.model.pipeline_[0].transform(signals)
            level = sigma / self.expected.references(np.asarray(aligned, dtype=np.float64))
            low, high = self.expected.trained_levels
        elif self.absolute is not None:
            level, (low, high) = sigma, self.absolute
        else:
            return np.full(len(sigma), np.nan)
        level = np.maximum(level, 1e-300)
        return np.maximum(0, np.maximum(np.log(max(low, 1e-300) / level), np.log(level / high)))
