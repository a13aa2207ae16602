"""Simulation of the noisy signals of a block of voxels."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corrsk import physics
from corrsk._utils.rng import Stream, fill_with_normals, keyed_generator
from corrsk.acquisition.protocol import AcquisitionProtocol
from corrsk.physics.noise import draw_other_channels
from corrsk.physics.noise_levels import SNRRange
from corrsk.physics.signals import SIGNAL_NUISANCES
from corrsk.tissue.table import TableLayout

_Signals = NDArray[np.floating[Any]]

PIECE = 2**18  # values processed at a time: a block of signals with 64 measurements


@dataclass(frozen=True)
class BlockSimulator:
    """Simulator of the blocks of a tissue table.

    Parameters
    ----------
    protocol : AcquisitionProtocol
        Protocol, whose order is that of the columns. Signals and noise are computed in grid
        order, so that they do not depend on the order of the protocol.
    inversion_efficiency : float
        Inversion efficiency eta in (0, 1].
    layout : TableLayout
        Columns of the tissue table.
    noise_levels : array of shape (k,) or SNRRange
        Levels that are drawn at random if the table has no noise levels.
    noise_reference : {"m0", "max", "rms", "first"}
    noise_distribution : {"gaussian", "rician"}
    seed, stream : int
        Key of the random draws, together with the number and the tissue of a block.
    norm : str, optional
        Norm by which each signal is divided; see :func:`corrsk.physics.signal_norm`.
    n_coils : int
        Number of coils of Rician noise.
    """

    protocol: AcquisitionProtocol
    inversion_efficiency: float
    layout: TableLayout
    noise_levels: NDArray[np.float64] | SNRRange
    noise_reference: str
    noise_distribution: str
    seed: int
    stream: int
    norm: str | None = None
    n_coils: int = 1

    @cached_property
    def _model(self) -> physics.SignalModel:
        protocol = self.protocol.in_grid_order()
        return physics.SignalModel(
            protocol.contrasts, tr=protocol.tr, inversion_efficiency=self.inversion_efficiency,
            readout=protocol.readout,
        )  # fmt: skip

    @cached_property
    def _second_series(self) -> NDArray[np.intp] | None:
        """Measurements of the second series, in grid order."""
        if self.protocol.series is None:
            return None
        ordered = self.protocol.to_grid(self.protocol.series[None], copy=False)[0]
        return np.flatnonzero(ordered)

    def __call__(self, block: int, voxels: NDArray[np.float64], out: _Signals) -> None:
        """Fill `out` with the signals of `voxels`, rows of the tissue table."""
        groups = voxels.T[self.layout.columns].reshape(len(self.layout.groups), -1, len(voxels))
        # ordered by compartment within a voxel, as the key requires
        groups = groups.swapaxes(1, 2).astype(out.dtype, order="C")
        *properties, fractions = groups
        # the properties of absent compartments, such as NaN, must not change the key
        np.copyto(groups[:-1], 0, where=fractions == 0)
        key = (self.seed, self.stream, block, _content_key(fractions, *properties))
        np.copyto(groups[:-1], 1, where=fractions == 0)
        rng = keyed_generator(*key)
        fill_with_normals(rng, out)
        others = None
        if self.noise_distribution == "rician":

            def draw() -> _Signals:
                normals = np.empty_like(out)
                fill_with_normals(rng, normals)
                return normals

            others = draw_other_channels(draw, self.n_coils)
        levels = self._levels_of(voxels, key)
        nuisances = {name: voxels[:, index] for name, index in self.layout.nuisances.items()}
        of_signal = {name: nuisances[name] for name in SIGNAL_NUISANCES if name in nuisances}
        second_series = self._second_series
        rows = max(1, PIECE // out.shape[1])
        for start in range(0, len(out), rows):
            piece = slice(start, start + rows)
            signals = out[piece]
            tissue = dict(zip(self.layout.groups, groups[:, piece], strict=True))
            clean = self._model.of_complete_tissue(
                tissue, fractions[piece],
                {name: values[piece] for name, values in of_signal.items()},
            )  # fmt: skip
            sigma = physics.noise_sigma(clean, levels[piece], self.noise_reference)
            if others is None:
                physics.add_gaussian_noise(clean, sigma, signals, overwrite_normals=True)
            else:
                signals[:] = physics.add_noncentral_chi_noise(clean, sigma, signals, others[piece])
            # receiver gains scale the noise too
            if "gain" in nuisances and second_series is not None:
                signals[:, second_series] *= nuisances["gain"][piece, None]
            if "scale" in nuisances:
                signals *= nuisances["scale"][piece, None]
            if self.norm is not None:
                physics.normalize_signals(signals, self.norm, overwrite_signals=True)
            ordered = self.protocol.to_scan_order(signals, copy=False)
            if ordered is not signals:
                signals[:] = ordered

    def _levels_of(self, voxels: NDArray[np.float64], key: tuple[int, ...]) -> NDArray[np.float64]:
        if self.layout.noise_level is not None:
            return voxels[:, self.layout.noise_level]
        # a separate stream, so that the noise does not depend on the number of levels
        choice = keyed_generator(*key, Stream.LEVEL_CHOICE)
        if isinstance(self.noise_levels, SNRRange):
            return self.noise_levels.sample(choice, len(voxels))
        return self.noise_levels[choice.integers(0, self.noise_levels.size, len(voxels))]


def _content_key(*arrays: _Signals) -> int:
    digest = hashlib.blake2b(digest_size=8)
    for array in arrays:
        digest.update(array.data)
    return int.from_bytes(digest.digest(), "little")
