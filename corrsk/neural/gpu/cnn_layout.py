"""Order of the CNN's weights in the memory of the kernels in cnn_step.cu."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from corrsk.neural._grid import MIN_GRID_SIDE

_CONV1, _CONV2, _NODES, _TAPS = 6, 16, 32, 9  # of the paper's network
_ROW1, _ROW = 8, _NODES + 4  # lengths of rows, with padding; see cnn_step.cu


@dataclass(frozen=True)
class CNNLayout:
    """Positions of the weights of a CNN in a buffer with padded rows.

    Parameters
    ----------
    grid_shape : tuple of int
        Layout (n_ti, n_te) or (n_ti, n_te, n_b) of the measurements.
    n_features : int
        Number of measurements; if there are fewer than grid points, the others are zero.
    n_classes : int
        Number of classes.
    """

    grid_shape: tuple[int, ...]
    n_features: int
    n_classes: int

    @property
    def n_channels(self) -> int:
        """Number of input channels."""
        return self.grid_shape[2] if len(self.grid_shape) == 3 else 1

    @property
    def n_pooled(self) -> int:
        """Number of positions of the max-pooling."""
        rows, columns = (max(side, MIN_GRID_SIDE) for side in self.grid_shape[:2])
        return (rows - 4) // 2 * ((columns - 4) // 2)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the parts of the buffer, in their order."""
        class_row = -(-self.n_classes // 4) * 4
        return {
            "CONV1": (self.n_channels, _TAPS, _ROW1),
            "BIAS1": (_ROW1,),
            "CONV2": (_CONV1, _TAPS * _CONV2 + 4),
            "BIAS2": (_CONV2,),
            "FC2": (_NODES, _ROW),
            "FC3": (_NODES, class_row),
            "NODES1": (_NODES,),
            "NODES2": (_NODES,),
            "CLASSES": (class_row,),
            "FC1": (self.n_pooled, _CONV2, _ROW),  # last, because it may stay out of shared memory
        }

    @property
    def offsets(self) -> dict[str, int]:
        """Position of each part of the buffer."""
        sizes = [int(np.prod(shape)) for shape in self.shapes.values()]
        return dict(zip(self.shapes, np.cumsum([0, *sizes[:-1]]).tolist(), strict=True))

    @property
    def n_packed(self) -> int:
        """Number of values of the buffer, a multiple of 4."""
        return sum(int(np.prod(shape)) for shape in self.shapes.values())

    def positions(self) -> NDArray[np.int64]:
        """Position of each weight in the buffer.

        Returns
        -------
        ndarray of shape (n_weights,), int64
            Positions, in the order of the network's parameters.
        """
        at = {
            name: np.arange(np.prod(shape)).reshape(shape) + self.offsets[name]
            for name, shape in self.shapes.items()
        }
        conv2 = at["CONV2"][:, : _TAPS * _CONV2].reshape(_CONV1, _TAPS, _CONV2)
        parts = [
            at["CONV1"][:, :, :_CONV1].transpose(2, 0, 1),
            at["BIAS1"][:_CONV1],
            conv2.transpose(2, 0, 1),
            at["BIAS2"],
            at["FC1"][:, :, :_NODES].transpose(2, 1, 0),
            at["NODES1"],
            at["FC2"][:, :_NODES].T,
            at["NODES2"],
            at["FC3"][:, : self.n_classes].T,
            at["CLASSES"][: self.n_classes],
        ]
        return np.concatenate([part.ravel() for part in parts])

    def weights_at(self) -> NDArray[np.int32]:
        """Return the weight at each position of the buffer, shape (n_packed,); -1 for padding."""
        found = np.full(self.n_packed, -1, np.int32)
        positions = self.positions()
        found[positions] = np.arange(len(positions))
        return found

    def constants(self) -> dict[str, int]:
        """Return the constants of cnn_step.cu that describe the network."""
        return {
            "GRID_ROWS": self.grid_shape[0],
            "GRID_COLUMNS": self.grid_shape[1],
            "CHANNELS": self.n_channels,
            "FEATURES": self.n_features,
            "CLASSES": self.n_classes,
            "N_WEIGHTS": len(self.positions()),
            "N_PACKED": self.n_packed,
        } | {f"AT_{name}": offset for name, offset in self.offsets.items()}

    def shared_bytes(self, n_signals: int, *, whole_fc1: bool) -> int:
        """Shared memory of a block of `add_gradients`, in bytes.

        Parameters
        ----------
        n_signals : int
            Number of signals of the block, a multiple of 4.
        whole_fc1 : bool
            Whether the first linear layer is in shared memory.

        Returns
        -------
        int
            Number of bytes.
        """
        height, width = (max(side, MIN_GRID_SIDE) for side in self.grid_shape[:2])
        plane = (height - 2) * (width - 2) | 1
        weights = self.n_packed if whole_fc1 else self.offsets["FC1"]
        flat, class_row = _CONV2 * self.n_pooled, -(-self.n_classes // 4) * 4
        per_signal = (
            self.n_channels * height * width + 2 * _CONV1 * plane + flat + flat // 4
            + 4 * _NODES + class_row + 4
        )  # fmt: skip
        return 4 * (weights + n_signals * per_signal)
