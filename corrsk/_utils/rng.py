"""Random streams that do not depend on how the work is divided.

Rows are drawn in blocks of a fixed size. Each block has its own generator, keyed
by the number of the block. The result is therefore bit-identical for any number
of workers and any size of chunks.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any, Protocol

import numpy as np
from numpy.random import SFC64, Generator, SeedSequence
from numpy.typing import NDArray

STREAMS_VERSION = 2  # increases when the draws of a seed change
BLOCK_ROWS = 4096  # part of the definition of the random streams: not a tuning parameter
PIECE = BLOCK_ROWS * 64  # numbers processed at a time; must be even


class Stream(IntEnum):
    """Keys of the random streams of a seed, with :func:`keyed_generator`.

    Streams of one seed have different keys. A seed belongs to one of the groups below, and keys
    of different groups may be equal.
    """

    # a tissue table, and the data set or stream simulated from it
    COUNT = 0
    TISSUE = 1
    NOISE_LEVEL = 2
    SPLIT = 3
    CHUNK = 4
    DEVICE_CHUNK = 5
    NUISANCES = 6
    CELLS = 7  # position of tissue within the cells of a range with a step
    # the noise of a generator
    FIT_TRANSFORM = 0
    TRANSFORM = 1
    LEVEL_CHOICE = 1  # appended to the key of a block's noise
    # a training
    ORDER = 0
    WEIGHTS = 1
    HELD_OUT = 2
    FURTHER = 3
    DROPOUT = 4
    # a bootstrap
    DRAW = 0
    # the ideal observer
    MOVES = 0


RandomStateLike = int | np.integer[Any] | np.random.RandomState | Generator | None


def entropy(random_state: RandomStateLike) -> int:
    """Convert a random state to an integer that seeds streams.

    Parameters
    ----------
    random_state : int, RandomState, Generator or None
        An integer is returned as it is; None gives fresh entropy; a generator gives an
        integer drawn from it, so that a second call gives another stream.

    Returns
    -------
    int
        Seed of the streams.

    Raises
    ------
    ValueError
        If `random_state` has another type or is a negative integer.
    """
    if random_state is None:
        return int(SeedSequence().generate_state(1, np.uint64)[0])
    if isinstance(random_state, (int, np.integer)) and not isinstance(random_state, bool):
        if random_state < 0:
            raise ValueError(f"random_state must not be negative, got {random_state}")
        return int(random_state)
    if isinstance(random_state, np.random.RandomState):
        return int(random_state.randint(0, 2**63 - 1, dtype=np.int64))
    if isinstance(random_state, Generator):
        return int(random_state.integers(0, 2**63 - 1))
    raise ValueError(
        "random_state must be None, an integer, a numpy RandomState or a numpy Generator, "
        f"got {random_state!r}"
    )


def keyed_generator(seed: int, *key: int) -> Generator:
    """Random generator of a seed and a key such as (stream, block)."""
    return Generator(SFC64(SeedSequence(seed, spawn_key=key)))


def block_generators(seed: int, stream: int, first_block: int, n_rows: int) -> list[Generator]:
    """Random generators of the blocks of `n_rows` rows, from `first_block` on."""
    n_blocks = -(-n_rows // BLOCK_ROWS)
    return [keyed_generator(seed, stream, first_block + k) for k in range(n_blocks)]


def fill_with_normals(rng: Generator, out: NDArray[np.floating[Any]]) -> None:
    """Fill a contiguous array with standard normal draws, faster than numpy's method.

    Transform of Box and Muller, Ann. Math. Stat. 29, 610 (1958): numpy's vectorised
    logarithm, sine and cosine make it faster than the rejection steps of a ziggurat.
    In float32 the uniform draws have 24 bits, so that no draw exceeds 5.8 standard
    deviations (exact probability: 10^-8).
    """
    flat = out.reshape(-1)
    if flat.size % 2:  # normals come in pairs
        padded = np.empty(flat.size + 1, dtype=out.dtype)
        fill_with_normals(rng, padded)
        flat[:] = padded[:-1]
        return
    _fill_with_uniforms(rng, flat)
    half = flat.size // 2
    for start in range(0, half, PIECE):
        stop = min(start + PIECE, half)
        radius, angle = flat[start:stop], flat[half + start : half + stop]
        scale = np.subtract(1, radius)  # in (0, 1], because the logarithm of 0 is infinite
        np.log(scale, out=scale)
        scale *= -2
        np.sqrt(scale, out=scale)
        angle *= 2 * np.pi
        np.multiply(np.cos(angle, out=radius), scale, out=radius)
        np.multiply(np.sin(angle, out=angle), scale, out=angle)


def _fill_with_uniforms(rng: Generator, flat: NDArray[np.floating[Any]]) -> None:
    """Fill with the draws of ``rng.random(out=flat)`` of a new generator.

    In float32 the number of draws must be even.
    """
    if flat.dtype != np.float32:
        rng.random(dtype=flat.dtype.type, out=flat)
        return
    for start in range(0, flat.size, PIECE):
        piece = flat[start : start + PIECE]
        # numpy calls the generator for each float32 draw, but one 64-bit word holds two
        words = rng.bit_generator.random_raw(piece.size // 2)
        draws = words.astype("<u8", copy=False).view("<u4")  # the lower half comes first
        draws >>= 8
        piece[:] = draws.view("<i4")  # processors convert signed integers faster
        piece *= np.float32(2**-24)


class RandomDraws(Protocol):
    """Random numbers of an array library: numpy's Generator, or an adapter with its methods."""

    def random(self, size: tuple[int, ...], /) -> Any:
        """Draw uniform numbers in [0, 1)."""

    def uniform(self, low: float, high: float, size: tuple[int, ...], /) -> Any:
        """Draw uniform numbers in [low, high)."""

    def integers(self, low: int, high: int, size: tuple[int, ...], /) -> Any:
        """Draw uniform integers low..high - 1."""

    def standard_exponential(self, size: tuple[int, ...], /) -> Any:
        """Draw exponential numbers with mean 1."""
