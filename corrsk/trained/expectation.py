"""Comparison of a batch of measured signals with the signals that a model was made for."""

from __future__ import annotations

import warnings
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corrsk import physics
from corrsk._utils.voxels import user_level
from corrsk._utils.wording import worded
from corrsk.acquisition.protocol import resolve_protocol
from corrsk.novelty.detector import EXPLAINED, REASONS, SignalNoveltyDetector
from corrsk.physics.noise_levels import NoiseLevels, SNRRange, checked_noise_levels
from corrsk.preprocessing._scale import M0Estimator
from corrsk.relaxometry._subspace import noise_outside
from corrsk.simulation.definition import DatasetDefinition
from corrsk.simulation.streams import SignalStream
from corrsk.tissue.prior import resolve_prior

Array = NDArray[np.float64]

_SEED = 2024  # the same voxels in every comparison, so that its result is reproducible
_N_VOXELS = 4000
_N_JUDGED = 2000  # voxels of a batch, evenly spaced
# Noise-free signals lie in the subspace of the singular values above this part of the largest, to
# about 1e-4; at least half of the measurements remain for the noise.
_CUTOFF = 1e-3
_LEAST_FREEDOM = 4  # measurements beyond the subspace for an estimate of the noise
_MANY = 20  # voxels whose median is compared with the usual range, of fewer with the possible one
_USUAL, _RARE = 0.05, 0.001  # share of the trained voxels beyond the end of either range
_BACKGROUND = 0.05  # of the norm of the brightest twentieth: such voxels are noise
_INVERTED, _NOT_INVERTED = 0.5, 0.02  # shares of voxels that are negative at the shortest TI
_IMPROBABLE = 1e-3  # of a batch without negative values


class MeasuredSignalWarning(UserWarning):
    """Warning that a whole batch of signals cannot be what the model was made for.

    The signals are magnitudes or have the opposite sign, their noise is outside the range of the
    training, or most of them are novel. The message has the figures and the remedy.
    """


@dataclass(frozen=True)
class ExpectedSignals:
    """Sign, noise and subspace of the signals of a definition, from simulated voxels.

    Parameters
    ----------
    definition : DatasetDefinition
        Definition of the training signals.
    basis : ndarray of shape (n_measurements, d)
        Orthonormal basis of the noise-free signals.
    m0 : M0Estimator or None
        Estimator of the scale of a signal, if M0 is the reference of the noise.
    estimated : ndarray of shape (2, 2)
        Lowest and highest estimate of the noise level (columns) of single and of many voxels
        (rows) with the trained levels.
    inverted : float
        Share of the voxels whose values at the shortest TI have a negative sum; 0 if the signals
        are magnitudes, or the protocol has no inversion.
    """

    definition: DatasetDefinition
    basis: Array
    m0: M0Estimator | None
    estimated: Array
    inverted: float

    @classmethod
    def from_definition(cls, definition: DatasetDefinition) -> ExpectedSignals:
        """Find the properties of simulated voxels of a definition."""
        clean = physics.normalize_signals(_drawn(definition, 0.0))
        n_columns = clean.shape[1]
        squared, vectors = np.linalg.eigh(clean.T @ clean)
        rank = int((squared > _CUTOFF**2 * squared[-1]).sum())
        rank = max(1, min(rank, n_columns // 2))
        m0 = None
        if definition.noise_reference == "m0":
            m0 = M0Estimator.from_signals(_drawn(definition, definition.noise_levels))
        found = cls(definition, vectors[:, ::-1][:, :rank], m0, np.full((2, 2), np.nan), 0.0)
        low, high = found.trained_levels
        estimates = [found.noise_levels(_drawn(definition, level)) for level in (low, high)]
        bounds = [
            [np.quantile(estimates[0], share), np.quantile(estimates[1], 1 - share)]
            for share in (_RARE, _USUAL)
        ]
        inverted = 0.0
        if definition.noise_distribution == "gaussian" and found.shortest_ti.any():
            inverted = float(np.mean(found.is_inverted(_drawn(definition, high))))
        return cls(definition, found.basis, m0, np.array(bounds), inverted)

    @property
    def trained_levels(self) -> tuple[float, float]:
        """Lowest and highest noise level of the training."""
        levels = checked_noise_levels(self.definition.noise_levels)
        if isinstance(levels, SNRRange):
            return 1 / levels.high, 1 / levels.low
        return float(levels.min()), float(levels.max())

    @property
    def shortest_ti(self) -> NDArray[np.bool_]:
        """Mask of the measurements with the shortest inversion time."""
        protocol = resolve_protocol(self.definition.protocol)
        ti = protocol.contrasts.get("TI")
        if ti is None:
            return np.zeros(protocol.n_measurements, dtype=bool)
        return np.asarray(np.isfinite(ti) & (ti == np.min(ti)))

    def is_inverted(self, signals: Array) -> NDArray[np.bool_]:
        """Return whether the values of each voxel at the shortest TI have a negative sum."""
        return np.asarray(signals[:, self.shortest_ti].sum(axis=1) < 0)

    def noise_levels(self, signals: Array) -> Array:
        """Estimate the noise level of each voxel, in the unit of the definition.

        Parameters
        ----------
        signals : ndarray of shape (n_samples, n_measurements)
            Signals of any scale that are not zero.

        Returns
        -------
        ndarray of shape (n_samples,)
            Standard deviation of the noise as a part of the noise reference.
        """
        return np.asarray(noise_outside(signals, self.basis) / self.references(signals))

    def references(self, signals: Array) -> Array:
        """Estimate the noise reference of each voxel: M0, largest or root mean square signal.

        Parameters
        ----------
        signals : ndarray of shape (n_samples, n_measurements)
            Signals of any scale that are not zero.

        Returns
        -------
        ndarray of shape (n_samples,)
            References, in the unit of the signals.
        """
        if self.m0 is not None:
            return self.m0.estimate(signals)
        inside = signals @ self.basis @ self.basis.T
        if self.definition.noise_reference == "max":
            return np.asarray(np.abs(inside).max(axis=1))
        return np.asarray(np.sqrt((inside**2).mean(axis=1)))

    # -- messages --------------------------------------------------------------

    def wrong_sign(self, signals: Array) -> str | None:
        """Describe why the signals are magnitudes or have the opposite sign.

        Parameters
        ----------
        signals : ndarray of shape (n_samples, n_measurements)
            Signals in the order of the protocol, none of them zero.

        Returns
        -------
        str or None
            The message; None if the signs are as expected.
        """
        share, n = float(np.mean(self.is_inverted(signals))), len(signals)
        by_chance = (1 - self.inverted + 1 / _N_VOXELS) ** n
        if self.inverted < _INVERTED or share > _NOT_INVERTED or by_chance > _IMPROBABLE:
            return None
        protocol = resolve_protocol(self.definition.protocol)
        shortest = float(protocol.contrasts["TI"][self.shortest_ti][0])
        magnitudes = float(np.mean((signals >= 0).all(axis=1))) > 0.5
        cause, cure = (
            (
                "are magnitudes",
                worded(
                    "use a model for this protocol with noise_distribution='rician', or pass the "
                    "signed signals (SignalPhaser restores signs, and corrects the phase of "
                    "complex signals)",
                    "train a model for this protocol with the distribution 'rician' of the noise, "
                    "or map signed images",
                ),
            )
            if magnitudes
            else (
                "have the opposite sign",
                worded(
                    "pass -X if the scanner inverts the sign",
                    "multiply the images by -1 if the scanner inverts the sign",
                ),
            )
        )
        return (
            f"the signals probably {cause}: at the shortest TI, {shortest:g} ms, "
            f"{share:.0%} of the voxels ({n:,}) are negative, of the trained signals "
            f"{self.inverted:.0%}. The predictions are wrong for such signals: {cure}"
        )

    def wrong_noise(self, signals: Array) -> str | None:
        """Describe why the noise of the signals is outside the trained range.

        Parameters
        ----------
        signals : ndarray of shape (n_samples, n_measurements)
            Signals in the order of the protocol, none of them zero.

        Returns
        -------
        str or None
            The message; None if the noise is possible, or cannot be estimated.
        """
        if signals.shape[1] - self.basis.shape[1] < _LEAST_FREEDOM:
            return None
        norms = np.asarray(physics.signal_norm(signals))
        bright = norms > _BACKGROUND * np.quantile(norms, 0.95)
        level = float(np.median(self.noise_levels(signals[bright])))
        low, high = self.estimated[int(bright.sum() >= _MANY)]
        if low <= level <= high:
            return None
        trained_low, trained_high = self.trained_levels
        side = "above" if level > high else "below"
        cure = (
            "compare protocol and order of the columns, an error of which looks like noise; leave "
            "out voxels of pure noise, average repeated measurements, or train a model with more "
            "noise"
            if side == "above"
            else "train a model with less noise; filters and interpolation of images lower the "
            "noise, too"
        )
        return (
            f"the noise is {side} the range of the training: {self._amount(level)} (median of "
            f"{int(bright.sum()):,} voxels), trained {100 * trained_low:.2g} to "
            f"{self._amount(trained_high)}. Probabilities are not calibrated for such noise: "
            f"{cure}"
        )

    def _amount(self, level: float) -> str:
        of = {"m0": "M0", "max": "the largest signal", "rms": "the root mean square signal"}
        return f"{100 * level:.2g} % of {of[self.definition.noise_reference]}"


def expected_signals(definition: DatasetDefinition) -> ExpectedSignals:
    """Return the properties of the signals of a definition, which are simulated once.

    Parameters
    ----------
    definition : DatasetDefinition
        Definition of the training signals.

    Returns
    -------
    ExpectedSignals
        Their properties.
    """
    protocol = resolve_protocol(definition.protocol)
    # equal protocols may differ in their order, which the cache must distinguish
    order = tuple(value for axis in protocol.contrasts.values() for value in axis.tolist())
    return _expected(definition.resolved(), order)


@lru_cache(maxsize=16)
def _expected(definition: DatasetDefinition, _order: tuple[float, ...]) -> ExpectedSignals:
    return ExpectedSignals.from_definition(definition)


def most_are_novel(
    signals: NDArray[Any], detector: SignalNoveltyDetector
) -> tuple[str | None, str | None]:
    """Describe why most of the signals are novel.

    Parameters
    ----------
    signals : ndarray of shape (n_samples, n_measurements)
        Signals in the order of the protocol, none of them zero.
    detector : SignalNoveltyDetector
        Fitted detector.

    Returns
    -------
    message, reason : str or None
        The message, and the most frequent reason; None if at most half of the signals, or a single
        one, are novel.
    """
    reasons = detector.explain(signals)["reason"].tolist()
    novel = Counter(reason for reason in reasons if reason != EXPLAINED)
    if novel.total() < 2 or 2 * novel.total() <= len(reasons):
        return None, None
    reason, number = novel.most_common(1)[0]
    message = (
        f"{novel.total() / len(reasons):.0%} of {len(reasons):,} voxels differ from all signals "
        f"of the training, where {detector.false_alarm_rate:.0%} would by chance; most frequent "
        f"reason: {reason} ({number / len(reasons):.0%}). The predictions are wrong for such "
        "signals: compare protocol, order of the columns, units and artefacts, or train a model "
        "with a wider prior; "
        + worded(
            "predict_novelty has the p-value of each voxel", "the map of novelty shows these voxels"
        )
    )
    return message, reason


def warn_of_unexpected(
    signals: NDArray[Any], expected: ExpectedSignals, detector: SignalNoveltyDetector | None
) -> None:
    """Warn, before the predictions, if a batch cannot be what the model was made for.

    Parameters
    ----------
    signals : ndarray of shape (n_samples, n_measurements)
        Finite signals in the order of the protocol.
    expected : ExpectedSignals
        Properties of the signals of the training.
    detector : SignalNoveltyDetector or None
        Fitted detector, if there is one.

    Warns
    -----
    MeasuredSignalWarning
        Once, for one of the reasons sign, noise and novelty, each of which may cause another.
    """
    bright = np.flatnonzero(signals.any(axis=1))
    if not bright.size:
        return
    judged = signals[bright[:: -(-bright.size // _N_JUDGED)]]
    # of the same size, so that no square of a very small or large signal is lost
    scaled = judged / np.abs(judged).max()
    values = scaled.astype(np.float64)
    message = expected.wrong_sign(values)
    if message is None:
        novel, reason = (None, None) if detector is None else most_are_novel(scaled, detector)
        # a wrong shape also looks like noise, so that the more specific reason comes first
        shape = novel if reason in (REASONS["spike"], REASONS["shape"]) else None
        message = shape or expected.wrong_noise(values) or novel
    if message is not None:
        warnings.warn(message, MeasuredSignalWarning, stacklevel=user_level())


def _drawn(definition: DatasetDefinition, noise_level: NoiseLevels) -> Array:
    """Draw signals of a definition with other noise levels, not normalised."""
    stream = SignalStream(
        resolve_prior(definition.prior), definition.protocol, noise_level,
        definition.noise_reference, definition.noise_distribution,
        definition.inversion_efficiency, norm=None, random_state=_SEED,
    )  # fmt: skip
    return stream.draw(0, _N_VOXELS, n_jobs=1)[0].astype(np.float64)
