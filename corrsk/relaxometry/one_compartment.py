"""Fast fits of one compartment to many voxels, for maps."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from corrsk._utils.parallel import for_each_chunk, one_blas_thread
from corrsk.acquisition.bounds import Bounds, checked_bounds
from corrsk.acquisition.protocol import AcquisitionProtocol
from corrsk.relaxometry._identifiability import check_levels
from corrsk.relaxometry._kernels import KernelModel

Single = NDArray[np.float32]

_MAX_NODES = 40_000  # with their tangents some 10 MB
_MOST_PER_PROPERTY = 80  # steps of about 8 % over the usual range
_EFFICIENCIES = 5
_COARSE = 4  # every fourth node of each property is compared with all voxels
_CUTOFF = 3e-3  # of the singular values of the dictionary
_STEPS = 5
_DAMPING = 1e-5
_CHUNK_ROWS = 2048


class OneCompartmentFit:
    """Tissue properties of one compartment per voxel, by a dictionary with tangents.

    The properties of voxels of several compartments are averages; a map of them is a picture of the
    tissue, for the counts beside it.

    Parameters
    ----------
    protocol : AcquisitionProtocol
        Protocol of the columns, in their order, of one series.
    bounds : dict of str to (low, high), TissuePrior, str or None, default=None
        Range of each tissue property; see :class:`corrsk.MultiExponentialClassifier`.
    inversion_efficiency : float or (float, float), default=1.0
        Inversion efficiency, or the range in which it is fitted in each voxel.
    magnitude : bool, default=False
        Whether the signals are magnitudes.
    n_jobs : int or None, default=None
        Number of threads; None for every core.

    Attributes
    ----------
    properties : tuple of str
        Names of the properties, such as ("T1", "T2").

    Raises
    ------
    ValueError
        If the protocol has several series, too few different values of a scan parameter, or too
        few measurements, or a bound is invalid.

    Notes
    -----
    The cosine between a voxel and the signal of one compartment is maximised, which is the
    least-squares fit with a free amplitude. The dictionary is on a logarithmic grid and is
    compressed by a singular value decomposition (McGivney et al., IEEE Trans. Med. Imaging 33,
    2311 (2014)). From the best of every fourth node, Gauss-Newton steps with the tangents at the
    nodes lead to the nearest node and to the value beside it. Without a fitted efficiency, errors
    of the method are a few per mille at most.
    """

    def __init__(
        self,
        protocol: AcquisitionProtocol,
        *,
        bounds: Bounds = None,
        inversion_efficiency: float | tuple[float, float] = 1.0,
        magnitude: bool = False,
        n_jobs: int | None = None,
    ) -> None:
        if protocol.series is not None:
            raise ValueError(
                "a one-compartment fit needs one series of measurements, but the protocol has "
                f"{int(protocol.series.max()) + 1} of unknown relative scale"
            )
        check_levels(protocol)
        single = inversion_efficiency if isinstance(inversion_efficiency, float) else 1.0
        shared: dict[str, tuple[float, float]] = {}
        if not isinstance(inversion_efficiency, float) and "TI" in protocol.contrasts:
            low, high = inversion_efficiency
            shared = {"inversion_efficiency": (low, high)} if low < high else {}
            single = high
        self.properties = protocol.tissue_properties
        n_unknowns = len(self.properties) + len(shared) + 1
        if protocol.n_measurements < n_unknowns:
            raise ValueError(
                f"a one-compartment fit has {n_unknowns} unknowns, more than the "
                f"{protocol.n_measurements} measurements of the protocol"
            )
        self.n_jobs = n_jobs
        self._protocol, self._magnitude = protocol, magnitude
        model = KernelModel(
            protocol.in_grid_order(), checked_bounds(bounds, protocol, single), single, shared
        )
        self._tabulate(model)

    def _tabulate(self, model: KernelModel) -> None:
        """Compressed atoms of all nodes, and their tangents in steps of the grid."""
        P, Q = len(model.properties), len(model.nuisances)
        per_property = int((_MAX_NODES / _EFFICIENCIES**Q) ** (1 / P) + 1e-9)
        shape = (min(per_property, _MOST_PER_PROPERTY),) * P + (_EFFICIENCIES,) * Q
        low = np.concatenate([model.low, model.nuisance_low])
        high = np.concatenate([model.high, model.nuisance_high])
        logs = [np.linspace(a, b, n) for a, b, n in zip(low, high, shape, strict=True)]
        theta = np.stack([m.ravel() for m in np.meshgrid(*logs, indexing="ij")], axis=-1)
        atoms = model.dictionary(theta)
        if self._magnitude:
            atoms = np.abs(atoms)
        norms = np.linalg.norm(atoms, axis=1, keepdims=True)
        atoms /= np.where(norms > 0, norms, 1.0)
        squared, vectors = np.linalg.eigh(atoms.T @ atoms)
        kept = squared > _CUTOFF**2 * squared[-1]
        compressed = atoms @ vectors[:, kept]
        grid = compressed.reshape(*shape, -1)
        tangents = np.stack(
            [np.gradient(grid, axis=k) for k in range(P + Q)], axis=-2
        ).reshape(len(theta), P + Q, -1)  # fmt: skip
        # the length of an atom is no unknown
        along = np.einsum("mqr,mr->mq", tangents, compressed)
        tangents -= along[..., None] * compressed[:, None]
        gram = tangents @ tangents.transpose(0, 2, 1)
        size = np.einsum("mqq->mq", gram).max(axis=1)
        gram += (_DAMPING * size + 1e-30)[:, None, None] * np.eye(P + Q)
        self._solve: Single = np.linalg.solve(gram, tangents).astype(np.float32)
        self._atoms: Single = compressed.astype(np.float32)
        self._basis: Single = vectors[:, kept].astype(np.float32)
        self._shape, self._low = np.array(shape), model.low
        self._step = (high - low)[:P] / (self._shape[:P] - 1)
        places = [
            np.unique(np.r_[np.arange(_COARSE // 2, n, _COARSE), n - 1])
            if k < P
            else np.arange(0, n, 2)
            for k, n in enumerate(shape)
        ]
        mesh = np.meshgrid(*places, indexing="ij")
        self._coarse = np.stack([m.ravel() for m in mesh], axis=-1)
        flat = np.ravel_multi_index(tuple(self._coarse.T), shape)
        self._coarse_atoms = np.ascontiguousarray(self._atoms[flat].T)

    def fit(self, signals: NDArray[Any]) -> NDArray[np.float32]:
        """Fit one compartment to each voxel.

        Parameters
        ----------
        signals : array of shape (n_voxels, n_measurements)
            Finite signals of any scale; in the order of the protocol.

        Returns
        -------
        ndarray of shape (n_voxels, n_properties)
            Properties in ms or um^2/ms; NaN for voxels of zeros.
        """
        values = np.asarray(signals)
        found = np.empty((len(values), len(self.properties)), np.float32)

        def work(rows: slice) -> None:
            part = self._protocol.to_grid(values[rows], copy=False)
            found[rows] = self._fit_chunk(np.asarray(part))

        with one_blas_thread:
            for_each_chunk(
                work, len(values), _CHUNK_ROWS, n_jobs=self.n_jobs,
                description="fitting one compartment", unit="voxels", verbose=False,
            )  # fmt: skip
        return found

    def _fit_chunk(self, signals: NDArray[Any]) -> NDArray[np.float64]:
        largest = np.abs(signals).max(axis=1, keepdims=True)
        x = (signals / np.where(largest > 0, largest, 1)).astype(np.float32)
        x = (np.abs(x) if self._magnitude else x) @ self._basis
        place = self._coarse[(x @ self._coarse_atoms).argmax(axis=1)]
        best = np.full(len(x), -np.inf, np.float32)
        result = np.zeros((len(x), len(self._shape)))
        for _ in range(_STEPS):
            flat = np.ravel_multi_index(tuple(place.T), tuple(self._shape))
            cosine = np.einsum("vr,vr->v", x, self._atoms[flat])
            step = np.einsum("vqr,vr->vq", self._solve[flat], x)
            step /= np.where(cosine > 0, cosine, np.inf)[:, None]
            better = cosine > best
            best[better] = cosine[better]
            beside = place + np.clip(step, -1, 1)  # tangents hold near their node
            result[better] = beside[better]
            moved = np.rint(place + np.clip(step, -8, 8)).astype(np.int64)
            place = np.clip(moved, 0, self._shape - 1)
        P = len(self.properties)
        inside = np.clip(result[:, :P], 0, self._shape[:P] - 1)
        values = np.exp(self._low + inside * self._step)
        values[largest[:, 0] == 0] = np.nan
        return np.asarray(values)
