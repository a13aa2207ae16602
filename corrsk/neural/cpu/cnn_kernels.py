"""Compiled kernels of the paper's CNN: forward and backward pass in numba.

There are kernels of the published 8 x 8 grid, and kernels of any grid, whose lengths and distances
are arguments: compiled once for all grids, and on 8 x 8 about 4 % slower than the former.

Activations of `LANES` signals are stored lane by lane: element (c, i, j) of signal v is at
``[((c * rows + i) * columns + j) * LANES + v]``. Each innermost loop then runs over contiguous
lanes, which the compiler vectorises. A general convolution does not have this layout, and its
overhead for six channels exceeds the arithmetic.

The second convolution, which is most of the work, is Winograd's F(2 x 2, 3 x 3) (Lavin and Gray,
"Fast algorithms for convolutional neural networks", arXiv:1509.09308, 2016), forward and
backward: each 2 x 2 block of outputs is ``A^T [(G w G^T) * (B^T x B)] A`` with a 4 x 4 tile x of
the input. A block needs 16 multiplications; direct sums of products need 36. The pooling reduces
each 2 x 2 block to one value: only the largest output and its position leave the registers.

The compiler vectorises only innermost loops, and only if it can prove that indices are not
negative and that a loop does not write to the memory that it reads. Sums are therefore written
out, weights are copied to scalars before a loop, and slices replace offsets. All kernels are in
one file, because numba's cache of compiled functions detects changes in this file only.

The shape of a grid is (rows of the pooling's output, its columns, number of input channels). The
input has 4 rows more than twice the rows of the pooling's output, and the output of the first
convolution 2; columns likewise. The pooling ignores the last one of an odd number of rows, and so
do the kernels.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

LANES = 64  # lanes of the convolutions
BLOCK = 2 * LANES  # lanes of the linear layers: longer rows, fewer sums
MAX_CLASSES = 16

_L, _B = LANES, BLOCK
_ROW8, _ROW6 = 8 * _L, 6 * _L  # a row of the 8 x 8 input, and after one convolution
_TILES = 4 * _L  # lanes of the four tiles of the 8 x 8 grid, or of a group of up to four
_ROW = _TILES + 16  # 64 bytes more, so that rows use different lines of the cache
_SIX, _CHANNELS = 6 * _ROW, 16 * _TILES
_PUBLISHED = (2, 2, 1)  # shape of the 8 x 8 grid
(
    _X, _A1, _TILED, _PRODUCTS, _POOLED, _WHICH, _F1, _F2, _Z, _LABELLED, _D_F2, _D_F1, _D_POOLED,
    _MIXED, _D_TILED, _D_A1, _U, _D_U,
) = range(18)  # fmt: skip


def scratch_starts(shape: tuple[int, int, int]) -> NDArray[np.int64]:
    """Positions of the parts of the working memory, and its size as the last entry.

    Parameters
    ----------
    shape : tuple of int
        Rows and columns of the output of the pooling, and number of input channels.

    Returns
    -------
    ndarray of shape (19,), int64
        Positions.
    """
    rows, columns, channels = shape
    tiles = rows * columns
    x = channels * (2 * rows + 4) * (2 * columns + 4)
    a1 = 6 * (2 * rows + 2) * (2 * columns + 2)
    sizes = {
        _X: x * _B,
        _A1: a1 * _B,
        _TILED: 2 * 16 * _SIX,  # transformed tiles of a1, of one group
        _PRODUCTS: 64 * _L,
        _POOLED: 16 * tiles * _B,
        _WHICH: 16 * tiles * _B,  # position (0..3) of the largest of four outputs
        _F1: 32 * _B,
        _F2: 32 * _B,
        _Z: MAX_CLASSES * _B,
        _LABELLED: 4 * _B,  # labels, weights, norms and picked logits
        _D_F2: 32 * _B,
        _D_F1: 32 * _B,
        _D_POOLED: 16 * tiles * _B,
        _MIXED: 24 * _TILES,
        _D_TILED: 16 * _SIX,
        _D_A1: a1 * _L,
        _U: 1536,  # transformed weights of the second convolution
        _D_U: 1536,
    }
    return np.cumsum([0, *(sizes[part] for part in range(len(sizes)))])


_STARTS = tuple(scratch_starts(_PUBLISHED).tolist())
SCRATCH = _STARTS[-1]

_OPTIONS: Any = {
    "nogil": True, "cache": True, "error_model": "numpy",
    "fastmath": {"contract", "reassoc", "nsz", "arcp"},
}  # fmt: skip
_entry_point: Any = njit(**_OPTIONS)
# All functions are inlined into the entry points. A call would be linked to either of two copies of
# a function: one compiled in this process, or one from the cache of the calling function. The two
# copies are optimised in different contexts and round differently.
_compiled: Any = njit(forceinline=True, **_OPTIONS)
_inlined: Any = njit(inline="always")
_0, _1, _INFINITY = np.float32(0), np.float32(1), np.float32(np.inf)


@_inlined
def _part(scratch, starts, k):
    return scratch[starts[k] : starts[k + 1]]


@_inlined
def _layers(w, shape, n_classes):
    """Return weights and biases of the five layers."""
    a = 54 * shape[2]
    b = a + 886 + 512 * shape[0] * shape[1]
    c = b + 1088 + 32 * n_classes
    return (
        w[:a], w[a : a + 6], w[a + 6 : a + 870], w[a + 870 : a + 886],
        w[a + 886 : b], w[b : b + 32], w[b + 32 : b + 1056], w[b + 1056 : b + 1088],
        w[b + 1088 : c], w[c : c + n_classes],
    )  # fmt: skip


@_compiled
def _load(X, rows, mean, inverse_scale, x):
    """Copy scaled rows of X to lanes; lanes without a signal keep their values."""
    for v in range(len(rows)):
        signal = X[rows[v]]
        for j in range(64):
            x[j * _L + v] = (signal[j] - mean[j]) * inverse_scale[j]


@_compiled
def _conv1(x, w, b, a1):
    for c in range(6):
        p, bias = w[c * 9 : (c + 1) * 9], b[c]
        p0, p1, p2, p3, p4, p5, p6, p7, p8 = p[0], p[1], p[2], p[3], p[4], p[5], p[6], p[7], p[8]
        for i in range(6):
            out = a1[(c * 6 + i) * _ROW6 : (c * 6 + i + 1) * _ROW6]
            a = x[i * _ROW8 : (i + 3) * _ROW8]
            for v in range(_ROW6):
                total = (
                    bias + p0 * a[v] + p1 * a[v + _L] + p2 * a[v + 2 * _L]
                    + p3 * a[v + _ROW8] + p4 * a[v + _ROW8 + _L] + p5 * a[v + _ROW8 + 2 * _L]
                    + p6 * a[v + 2 * _ROW8] + p7 * a[v + 2 * _ROW8 + _L]
                    + p8 * a[v + 2 * _ROW8 + 2 * _L]
                )  # fmt: skip
                out[v] = max(total, _0)


# In Winograd's matrices, the signs of the last rows of G and A are reversed here, which does not
# change the result and makes the last row of A a copy:
# B^T = 1 0 -1 0 | 0 1 1 0 | 0 -1 1 0 | 0 1 0 -1,  A^T = 1 1 1 0 | 0 1 -1 1,
# G = 1 0 0 | 1/2 1/2 1/2 | 1/2 -1/2 1/2 | 0 0 -1


@_compiled
def _transformed_weights(w, u):
    """G w G^T of each pair of channels: (a, b) of (c, k) is at [(4 a + b) * 96 + c * 6 + k]."""
    half = np.float32(0.5)
    g = np.empty((4, 3), np.float32)
    for pair in range(96):
        q = w[pair * 9 : (pair + 1) * 9]
        for j in range(3):
            even, odd = half * (q[j] + q[6 + j]), half * q[3 + j]
            g[0, j], g[1, j], g[2, j], g[3, j] = q[j], even + odd, even - odd, -q[6 + j]
        for a in range(4):
            even, odd = half * (g[a, 0] + g[a, 2]), half * g[a, 1]
            u[4 * a * 96 + pair], u[(4 * a + 1) * 96 + pair] = g[a, 0], even + odd
            u[(4 * a + 2) * 96 + pair], u[(4 * a + 3) * 96 + pair] = even - odd, -g[a, 2]


@_compiled
def _weights_back(gu, gw):
    """Add G^T gu G to the gradient of the weights."""
    half = np.float32(0.5)
    g = np.empty((3, 4), np.float32)
    for pair in range(96):
        for b in range(4):
            t0, t1 = gu[b * 96 + pair], gu[(4 + b) * 96 + pair]
            t2, t3 = gu[(8 + b) * 96 + pair], gu[(12 + b) * 96 + pair]
            even, odd = half * (t1 + t2), half * (t1 - t2)
            g[0, b], g[1, b], g[2, b] = t0 + even, odd, even - t3
        out = gw[pair * 9 : (pair + 1) * 9]
        for i in range(3):
            even, odd = half * (g[i, 1] + g[i, 2]), half * (g[i, 1] - g[i, 2])
            out[3 * i] += g[i, 0] + even
            out[3 * i + 1] += odd
            out[3 * i + 2] += even - g[i, 3]


@_compiled
def _transformed_tiles(a1, tiles):
    """Compute B^T x B of the 4 x 4 tiles; row (4 a + b) * 6 + channel has lanes of four tiles."""
    for k in range(6):
        for tile in range(4):
            row, column = tile // 2 * 2, tile % 2 * 2
            a = a1[((k * 6 + row) * 6 + column) * _L :][: 3 * _ROW6 + 4 * _L]
            out = tiles[k * _ROW + tile * _L :][: 15 * _SIX + _L]
            for v in range(_L):
                x0, x1, x2, x3 = a[v], a[v + _L], a[v + 2 * _L], a[v + 3 * _L]
                y0, y1 = a[v + _ROW6], a[v + _ROW6 + _L]
                y2, y3 = a[v + _ROW6 + 2 * _L], a[v + _ROW6 + 3 * _L]
                z0, z1 = a[v + 2 * _ROW6], a[v + 2 * _ROW6 + _L]
                z2, z3 = a[v + 2 * _ROW6 + 2 * _L], a[v + 2 * _ROW6 + 3 * _L]
                w0, w1 = a[v + 3 * _ROW6], a[v + 3 * _ROW6 + _L]
                w2, w3 = a[v + 3 * _ROW6 + 2 * _L], a[v + 3 * _ROW6 + 3 * _L]
                r0, r1, r2, r3 = x0 - z0, x1 - z1, x2 - z2, x3 - z3
                out[v], out[v + _SIX] = r0 - r2, r1 + r2
                out[v + 2 * _SIX], out[v + 3 * _SIX] = r2 - r1, r1 - r3
                r0, r1, r2, r3 = y0 + z0, y1 + z1, y2 + z2, y3 + z3
                out[v + 4 * _SIX], out[v + 5 * _SIX] = r0 - r2, r1 + r2
                out[v + 6 * _SIX], out[v + 7 * _SIX] = r2 - r1, r1 - r3
                r0, r1, r2, r3 = z0 - y0, z1 - y1, z2 - y2, z3 - y3
                out[v + 8 * _SIX], out[v + 9 * _SIX] = r0 - r2, r1 + r2
                out[v + 10 * _SIX], out[v + 11 * _SIX] = r2 - r1, r1 - r3
                r0, r1, r2, r3 = y0 - w0, y1 - w1, y2 - w2, y3 - w3
                out[v + 12 * _SIX], out[v + 13 * _SIX] = r0 - r2, r1 + r2
                out[v + 14 * _SIX], out[v + 15 * _SIX] = r2 - r1, r1 - r3


@_compiled
def _products(tiles, u, m):
    """Sum over the six channels, for one tile and four outputs: m[(4 a + b) * 4 + output]."""
    for p in range(16):
        q, t, out = u[p * 96 :][:24], tiles[p * _SIX :][: 5 * _ROW + _L], m[p * 4 * _L :][: 4 * _L]
        p0, p1, p2, p3, p4, p5 = q[0], q[1], q[2], q[3], q[4], q[5]
        q0, q1, q2, q3, q4, q5 = q[6], q[7], q[8], q[9], q[10], q[11]
        r0, r1, r2, r3, r4, r5 = q[12], q[13], q[14], q[15], q[16], q[17]
        s0, s1, s2, s3, s4, s5 = q[18], q[19], q[20], q[21], q[22], q[23]
        for v in range(_L):
            t0, t1, t2 = t[v], t[v + _ROW], t[v + 2 * _ROW]
            t3, t4, t5 = t[v + 3 * _ROW], t[v + 4 * _ROW], t[v + 5 * _ROW]
            out[v] = p0 * t0 + p1 * t1 + p2 * t2 + p3 * t3 + p4 * t4 + p5 * t5
            out[v + _L] = q0 * t0 + q1 * t1 + q2 * t2 + q3 * t3 + q4 * t4 + q5 * t5
            out[v + 2 * _L] = r0 * t0 + r1 * t1 + r2 * t2 + r3 * t3 + r4 * t4 + r5 * t5
            out[v + 3 * _L] = s0 * t0 + s1 * t1 + s2 * t2 + s3 * t3 + s4 * t4 + s5 * t5


@_compiled
def _pool(m, bias, pooled, which):
    """Compute A^T m A and pool its 2 x 2 (first of equal values, as in torch), with the ReLU."""
    s = 4 * _L
    for v in range(_L):
        total, difference = m[v + 4 * s] + m[v + 8 * s], m[v + 4 * s] - m[v + 8 * s]
        e0, f0 = m[v] + total, difference + m[v + 12 * s]
        total, difference = m[v + 5 * s] + m[v + 9 * s], m[v + 5 * s] - m[v + 9 * s]
        e1, f1 = m[v + s] + total, difference + m[v + 13 * s]
        total, difference = m[v + 6 * s] + m[v + 10 * s], m[v + 6 * s] - m[v + 10 * s]
        e2, f2 = m[v + 2 * s] + total, difference + m[v + 14 * s]
        total, difference = m[v + 7 * s] + m[v + 11 * s], m[v + 7 * s] - m[v + 11 * s]
        e3, f3 = m[v + 3 * s] + total, difference + m[v + 15 * s]
        y0, y1, y2, y3 = e0 + (e1 + e2), (e1 - e2) + e3, f0 + (f1 + f2), (f1 - f2) + f3
        upper, lower = max(y0, y1), max(y2, y3)
        in_upper = _0 if y0 >= y1 else _1
        in_lower = np.float32(2) if y2 >= y3 else np.float32(3)
        which[v] = in_upper if upper >= lower else in_lower
        pooled[v] = max(max(upper, lower) + bias, _0)


@_compiled
def _conv2(a1, u, b, tiles, m, pooled, which):
    """Second convolution and pooling; `pooled` and `which` are the rows of half a block."""
    _transformed_tiles(a1, tiles)
    for tile in range(4):
        for c in range(0, 16, 4):
            _products(tiles[tile * _L :], u[c * 6 :], m)
            for k in range(4):
                cell = ((c + k) * 4 + tile) * _B
                _pool(m[k * _L :], b[c + k], pooled[cell:][:_L], which[cell:][:_L])


@_compiled
def _linear(h, w, b, out):
    n_out = b.size
    n_in = w.size // n_out
    for o in range(n_out):
        z, row, bias = out[o * _B : (o + 1) * _B], w[o * n_in : (o + 1) * n_in], b[o]
        for v in range(_B):
            z[v] = bias
        for i in range(0, n_in, 16):
            a, p = h[i * _B : (i + 16) * _B], row[i : i + 16]
            p0, p1, p2, p3, p4, p5, p6, p7 = p[0], p[1], p[2], p[3], p[4], p[5], p[6], p[7]
            q0, q1, q2, q3, q4, q5, q6, q7 = p[8], p[9], p[10], p[11], p[12], p[13], p[14], p[15]
            for v in range(_B):
                z[v] += (
                    p0 * a[v] + p1 * a[v + _B] + p2 * a[v + 2 * _B] + p3 * a[v + 3 * _B]
                    + p4 * a[v + 4 * _B] + p5 * a[v + 5 * _B] + p6 * a[v + 6 * _B]
                    + p7 * a[v + 7 * _B] + q0 * a[v + 8 * _B] + q1 * a[v + 9 * _B]
                    + q2 * a[v + 10 * _B] + q3 * a[v + 11 * _B] + q4 * a[v + 12 * _B]
                    + q5 * a[v + 13 * _B] + q6 * a[v + 14 * _B] + q7 * a[v + 15 * _B]
                )  # fmt: skip


@_compiled
def _relu(z):
    for v in range(z.size):
        z[v] = max(z[v], _0)


@_compiled
def _drop(h, states, threshold, scale):
    """Dropout in place, with a xorshift generator (Marsaglia, 2003) in each lane."""
    for row in range(h.size // _B):
        a = h[row * _B : (row + 1) * _B]
        for v in range(_B):
            s = states[v]
            s = np.uint32(s ^ np.uint32(s << np.uint32(13)))
            s = np.uint32(s ^ np.uint32(s >> np.uint32(17)))
            s = np.uint32(s ^ np.uint32(s << np.uint32(5)))
            states[v] = s
            a[v] = a[v] * scale if s >= threshold else _0


@_compiled
def _seed(states, seed, block):
    """Set the state of each lane of a block by splitmix64 (Steele et al., 2014) of its number."""
    for v in range(_B):
        z = seed + np.uint64(block * _B + v + 1) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        states[v] = np.uint32((z ^ (z >> np.uint64(31))) >> np.uint64(32)) | np.uint32(1)


@_inlined
def _exp(x):
    """Vectorised exponential for x <= 1: 2^n by its bits, a series for the remainder."""
    x = max(x, np.float32(-87))
    n = np.floor(x * np.float32(1.44269504) + np.float32(0.5))
    r = x - n * np.float32(0.69314718)
    series = np.float32(1 / 720) + r * np.float32(1 / 5040)
    series = np.float32(1 / 24) + r * (np.float32(1 / 120) + r * series)
    series = np.float32(0.5) + r * (np.float32(1 / 6) + r * series)
    power = np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)
    return power * (_1 + r * (_1 + r * series))


@_compiled
def _softmax(z, norm, picked, n_classes, labels):
    """Softmax in place; sets `norm`, and `picked`: logit of the label minus the largest logit."""
    top = z[:_B].copy()
    for k in range(1, n_classes):
        a = z[k * _B : (k + 1) * _B]
        for v in range(_B):
            top[v] = max(top[v], a[v])
    for v in range(_B):
        norm[v] = _0
    for k in range(n_classes):
        a = z[k * _B : (k + 1) * _B]
        for v in range(_B):
            shifted = a[v] - top[v]
            picked[v] = shifted if labels[v] == k else picked[v]
            e = _exp(shifted)
            norm[v] += e
            a[v] = e
    for k in range(n_classes):
        a = z[k * _B : (k + 1) * _B]
        for v in range(_B):
            a[v] /= norm[v]


@_compiled
def _losses(z, y, signal_weights, lanes, n_classes, class_weights, softmax_first, inverse_n):
    """Return the sum of the cross-entropies; replace logits by gradients times `inverse_n`."""
    labels, weights = lanes[:_B], lanes[_B : 2 * _B]
    norm, picked = lanes[2 * _B : 3 * _B], lanes[3 * _B :]
    for v in range(_B):
        labels[v], weights[v] = _0, _0  # lanes without a signal have no gradient
    for v in range(len(y)):
        labels[v], weights[v] = y[v], class_weights[y[v]] * signal_weights[v]
    p = z[: n_classes * _B]
    if softmax_first:
        _softmax(z, norm, picked, n_classes, labels)
        p = p.copy()
    _softmax(p, norm, picked, n_classes, labels)
    total = 0.0
    for v in range(len(y)):
        total += weights[v] * (math.log(norm[v]) - picked[v])
    for k in range(n_classes):
        a = p[k * _B : (k + 1) * _B]
        for v in range(_B):
            a[v] = weights[v] * inverse_n * (a[v] - (_1 if labels[v] == k else _0))
    if softmax_first:
        for v in range(_B):
            norm[v] = _0
        for k in range(n_classes):
            a, d = z[k * _B : (k + 1) * _B], p[k * _B : (k + 1) * _B]
            for v in range(_B):
                norm[v] += a[v] * d[v]
        for k in range(n_classes):
            a, d = z[k * _B : (k + 1) * _B], p[k * _B : (k + 1) * _B]
            for v in range(_B):
                a[v] *= d[v] - norm[v]
    return total


@_compiled
def _linear_back_input(w, n_out, dz, dh):
    n_in = w.size // n_out
    whole = n_out // 8 * 8
    for i in range(n_in):
        out, column = dh[i * _B : (i + 1) * _B], w[i:]
        for v in range(_B):
            out[v] = _0
        for o in range(0, whole, 8):
            d = dz[o * _B : (o + 8) * _B]
            p0, p1 = column[o * n_in], column[(o + 1) * n_in]
            p2, p3 = column[(o + 2) * n_in], column[(o + 3) * n_in]
            p4, p5 = column[(o + 4) * n_in], column[(o + 5) * n_in]
            p6, p7 = column[(o + 6) * n_in], column[(o + 7) * n_in]
            for v in range(_B):
                out[v] += (
                    p0 * d[v] + p1 * d[v + _B] + p2 * d[v + 2 * _B] + p3 * d[v + 3 * _B]
                    + p4 * d[v + 4 * _B] + p5 * d[v + 5 * _B] + p6 * d[v + 6 * _B]
                    + p7 * d[v + 7 * _B]
                )  # fmt: skip
        for o in range(whole, n_out):
            p0, d = column[o * n_in], dz[o * _B : (o + 1) * _B]
            for v in range(_B):
                out[v] += p0 * d[v]


@_compiled
def _linear_back_weights(h, dz, gw, gb):
    n_out = gb.size
    n_in = gw.size // n_out
    for o in range(n_out):
        d, total = dz[o * _B : (o + 1) * _B], _0
        for v in range(_B):
            total += d[v]
        gb[o] += total
        for i in range(0, n_in, 16):
            a, g = h[i * _B : (i + 16) * _B], gw[o * n_in + i :][:16]
            g0 = g1 = g2 = g3 = g4 = g5 = g6 = g7 = _0
            t0 = t1 = t2 = t3 = t4 = t5 = t6 = t7 = _0
            for v in range(_B):
                e = d[v]
                g0 += e * a[v]
                g1 += e * a[v + _B]
                g2 += e * a[v + 2 * _B]
                g3 += e * a[v + 3 * _B]
                g4 += e * a[v + 4 * _B]
                g5 += e * a[v + 5 * _B]
                g6 += e * a[v + 6 * _B]
                g7 += e * a[v + 7 * _B]
                t0 += e * a[v + 8 * _B]
                t1 += e * a[v + 9 * _B]
                t2 += e * a[v + 10 * _B]
                t3 += e * a[v + 11 * _B]
                t4 += e * a[v + 12 * _B]
                t5 += e * a[v + 13 * _B]
                t6 += e * a[v + 14 * _B]
                t7 += e * a[v + 15 * _B]
            sums = (g0, g1, g2, g3, g4, g5, g6, g7, t0, t1, t2, t3, t4, t5, t6, t7)
            for k in range(16):
                g[k] += sums[k]


@_compiled
def _through(d, h, scale):
    """Gradient through ReLU and dropout: 0 where the activation is 0."""
    for v in range(d.size):
        d[v] = d[v] * scale if h[v] > _0 else _0


@_compiled
def _cell_back(g, place, upper, lower, left, right):
    for v in range(_L):
        w, e, f = place[v], g[v] * upper, g[v] * lower
        left[v] = e if w == _0 else f if w == np.float32(2) else _0
        right[v] = e if w == _1 else f if w == np.float32(3) else _0


@_compiled
def _pool_back(d, which, upper, lower, left, right):
    """Compute A d of tiles for one row (upper, lower) of A; d has one nonzero value per 2 x 2."""
    for cell in range(32):
        _cell_back(
            d[cell * _B :][:_L], which[cell * _B :][:_L], upper, lower,
            left[cell * _L :][:_L], right[cell * _L :][:_L],
        )  # fmt: skip


@_compiled
def _mixed(left, right, sign, out):
    for v in range(out.size):
        out[v] = left[v] + sign * right[v]


@_compiled
def _products_back_weights(d, tiles, n, gu):
    """Add the gradient of the transformed weights of four channels, for one element of n lanes."""
    a0 = a1 = a2 = a3 = a4 = a5 = b0 = b1 = b2 = b3 = b4 = b5 = _0
    c0 = c1 = c2 = c3 = c4 = c5 = d0 = d1 = d2 = d3 = d4 = d5 = _0
    t, e = tiles[: 5 * _ROW + _TILES], d[: 4 * _TILES]
    for v in range(n):
        t0, t1, t2 = t[v], t[v + _ROW], t[v + 2 * _ROW]
        t3, t4, t5 = t[v + 3 * _ROW], t[v + 4 * _ROW], t[v + 5 * _ROW]
        e0, e1, e2, e3 = e[v], e[v + _TILES], e[v + 2 * _TILES], e[v + 3 * _TILES]
        a0 += e0 * t0
        a1 += e0 * t1
        a2 += e0 * t2
        a3 += e0 * t3
        a4 += e0 * t4
        a5 += e0 * t5
        b0 += e1 * t0
        b1 += e1 * t1
        b2 += e1 * t2
        b3 += e1 * t3
        b4 += e1 * t4
        b5 += e1 * t5
        c0 += e2 * t0
        c1 += e2 * t1
        c2 += e2 * t2
        c3 += e2 * t3
        c4 += e2 * t4
        c5 += e2 * t5
        d0 += e3 * t0
        d1 += e3 * t1
        d2 += e3 * t2
        d3 += e3 * t3
        d4 += e3 * t4
        d5 += e3 * t5
    sums = (
        a0, a1, a2, a3, a4, a5, b0, b1, b2, b3, b4, b5,
        c0, c1, c2, c3, c4, c5, d0, d1, d2, d3, d4, d5,
    )  # fmt: skip
    for k in range(24):
        gu[k] += sums[k]


@_compiled
def _products_back_tiles(d, u, n, d_tiles):
    """Add the gradient of the transformed tiles from eight channels, for three inputs."""
    e, q, out = d[: 8 * _TILES], u[:45], d_tiles[: 2 * _ROW + _TILES]
    p0, p1, p2, p3, p4, p5, p6, p7 = q[0], q[6], q[12], q[18], q[24], q[30], q[36], q[42]
    r0, r1, r2, r3, r4, r5, r6, r7 = q[1], q[7], q[13], q[19], q[25], q[31], q[37], q[43]
    s0, s1, s2, s3, s4, s5, s6, s7 = q[2], q[8], q[14], q[20], q[26], q[32], q[38], q[44]
    for v in range(n):
        e0, e1, e2, e3 = e[v], e[v + _TILES], e[v + 2 * _TILES], e[v + 3 * _TILES]
        e4, e5 = e[v + 4 * _TILES], e[v + 5 * _TILES]
        e6, e7 = e[v + 6 * _TILES], e[v + 7 * _TILES]
        out[v] += (
            p0 * e0 + p1 * e1 + p2 * e2 + p3 * e3 + p4 * e4 + p5 * e5 + p6 * e6 + p7 * e7
        )  # fmt: skip
        out[v + _ROW] += (
            r0 * e0 + r1 * e1 + r2 * e2 + r3 * e3 + r4 * e4 + r5 * e5 + r6 * e6 + r7 * e7
        )  # fmt: skip
        out[v + 2 * _ROW] += (
            s0 * e0 + s1 * e1 + s2 * e2 + s3 * e3 + s4 * e4 + s5 * e5 + s6 * e6 + s7 * e7
        )  # fmt: skip


@_compiled
def _tiles_back(d_tiles, d_a1):
    """Compute B d_tiles B^T, with sums where the tiles overlap."""
    for v in range(d_a1.size):
        d_a1[v] = _0
    for k in range(6):
        for tile in range(4):
            row, column = tile // 2 * 2, tile % 2 * 2
            s = d_tiles[k * _ROW + tile * _L :][: 15 * _SIX + _L]
            out = d_a1[((k * 6 + row) * 6 + column) * _L :][: 3 * _ROW6 + 4 * _L]
            for v in range(_L):
                r0, r1, r2, r3 = s[v], s[v + _SIX], s[v + 2 * _SIX], s[v + 3 * _SIX]
                s0, s1 = s[v + 4 * _SIX], s[v + 5 * _SIX]
                s2, s3 = s[v + 6 * _SIX], s[v + 7 * _SIX]
                t0, t1 = s[v + 8 * _SIX], s[v + 9 * _SIX]
                t2, t3 = s[v + 10 * _SIX], s[v + 11 * _SIX]
                u0, u1 = s[v + 12 * _SIX], s[v + 13 * _SIX]
                u2, u3 = s[v + 14 * _SIX], s[v + 15 * _SIX]
                out[v] += r0
                out[v + _L] += r1 - r2 + r3
                out[v + 2 * _L] += r1 + r2 - r0
                out[v + 3 * _L] -= r3
                q0, q1, q2, q3 = s0 - t0 + u0, s1 - t1 + u1, s2 - t2 + u2, s3 - t3 + u3
                out[v + _ROW6] += q0
                out[v + _ROW6 + _L] += q1 - q2 + q3
                out[v + _ROW6 + 2 * _L] += q1 + q2 - q0
                out[v + _ROW6 + 3 * _L] -= q3
                q0, q1, q2, q3 = s0 + t0 - r0, s1 + t1 - r1, s2 + t2 - r2, s3 + t3 - r3
                out[v + 2 * _ROW6] += q0
                out[v + 2 * _ROW6 + _L] += q1 - q2 + q3
                out[v + 2 * _ROW6 + 2 * _L] += q1 + q2 - q0
                out[v + 2 * _ROW6 + 3 * _L] -= q3
                out[v + 3 * _ROW6] -= u0
                out[v + 3 * _ROW6 + _L] -= u1 - u2 + u3
                out[v + 3 * _ROW6 + 2 * _L] -= u1 + u2 - u0
                out[v + 3 * _ROW6 + 3 * _L] += u3


@_compiled
def _conv2_back(d, which, tiles, u, mixed, d_tiles, gu, gb, d_a1):
    """Gradients of pooling and second convolution; `d` and `which` are the rows of half a block."""
    for c in range(16):
        total = _0
        for tile in range(4):
            g = d[(c * 4 + tile) * _B :][:_L]
            for v in range(_L):
                total += g[v]
        gb[c] += total
    for v in range(d_tiles.size):
        d_tiles[v] = _0
    left, right, mixed = mixed[: 8 * _TILES], mixed[8 * _TILES : 16 * _TILES], mixed[16 * _TILES :]
    for a in range(4):
        upper, lower = (_1 if a < 3 else _0), (_0 if a == 0 else -_1 if a == 2 else _1)
        for c in range(0, 16, 8):
            # the data of eight channels for one row of the tiles fit in the level 1 cache
            _pool_back(d[c * 4 * _B :], which[c * 4 * _B :], upper, lower, left, right)
            for b in range(4):
                p = 4 * a + b
                e = left if b == 0 else right if b == 3 else mixed
                if b == 1:
                    _mixed(left, right, _1, mixed)
                elif b == 2:
                    _mixed(left, right, -_1, mixed)
                for k in range(0, 8, 4):
                    _products_back_weights(
                        e[k * _TILES :], tiles[p * _SIX :], _TILES,
                        gu[p * 96 + (c + k) * 6 :][:24],
                    )  # fmt: skip
                for k in range(0, 6, 3):
                    _products_back_tiles(
                        e, u[p * 96 + c * 6 + k :], _TILES, d_tiles[p * _SIX + k * _ROW :]
                    )
    _tiles_back(d_tiles, d_a1)


@_compiled
def _conv1_back(x, a1, d_a1, gw, gb):
    for c in range(6):
        total = _0
        g0 = g1 = g2 = g3 = g4 = g5 = g6 = g7 = g8 = _0
        for i in range(6):
            d = d_a1[(c * 6 + i) * _ROW6 :][:_ROW6]
            a = a1[(c * 6 + i) * _ROW6 :][:_ROW6]
            rows = x[i * _ROW8 : (i + 3) * _ROW8]
            for v in range(_ROW6):
                e = d[v] if a[v] > _0 else _0
                total += e
                g0 += e * rows[v]
                g1 += e * rows[v + _L]
                g2 += e * rows[v + 2 * _L]
                g3 += e * rows[v + _ROW8]
                g4 += e * rows[v + _ROW8 + _L]
                g5 += e * rows[v + _ROW8 + 2 * _L]
                g6 += e * rows[v + 2 * _ROW8]
                g7 += e * rows[v + 2 * _ROW8 + _L]
                g8 += e * rows[v + 2 * _ROW8 + 2 * _L]
        gb[c] += total
        sums = (g0, g1, g2, g3, g4, g5, g6, g7, g8)
        for k in range(9):
            gw[c * 9 + k] += sums[k]


@_compiled
def _linear_layers(pooled, f1, f2, z, layers, dropout, seed, block):
    """Logits from the pooled outputs, to which dropout is applied in place."""
    w3, b3, w4, b4, w5, b5 = layers
    states = np.empty(_B, np.uint32)
    threshold, keep = np.uint32(dropout * 4294967296.0), np.float32(1 / (1 - dropout))
    if dropout > 0:
        _seed(states, seed, block)
        _drop(pooled, states, threshold, keep)
    _linear(pooled, w3, b3, f1)
    _relu(f1)
    if dropout > 0:
        _drop(f1, states, threshold, keep)
    _linear(f1, w4, b4, f2)
    _relu(f2)
    if dropout > 0:
        _drop(f2, states, threshold, keep)
    _linear(f2, w5, b5, z)


@_compiled
def _forward(
    X, rows, mean, inverse_scale, weights, u, n_classes, dropout, seed, block, scratch
):  # fmt: skip
    """Logits of up to one block of rows of X; `scratch` keeps the data for the backward pass."""
    x, a1, tiles = (
        _part(scratch, _STARTS, _X),
        _part(scratch, _STARTS, _A1),
        _part(scratch, _STARTS, _TILED),
    )
    m, pooled, which = (
        _part(scratch, _STARTS, _PRODUCTS),
        _part(scratch, _STARTS, _POOLED),
        _part(scratch, _STARTS, _WHICH),
    )
    f1, f2, z = (
        _part(scratch, _STARTS, _F1),
        _part(scratch, _STARTS, _F2),
        _part(scratch, _STARTS, _Z),
    )
    w1, b1, _, b2, w3, b3, w4, b4, w5, b5 = _layers(weights, _PUBLISHED, n_classes)
    for half in range(2):
        part = rows[half * _L : (half + 1) * _L]
        if len(part) == 0:
            break
        xh, a1h = x[half * 64 * _L :][: 64 * _L], a1[half * 216 * _L :][: 216 * _L]
        _load(X, part, mean, inverse_scale, xh)
        _conv1(xh, w1, b1, a1h)
        _conv2(
            a1h, u, b2, tiles[half * 16 * _SIX :][: 16 * _SIX], m,
            pooled[half * _L :], which[half * _L :],
        )  # fmt: skip
    _linear_layers(pooled, f1, f2, z, (w3, b3, w4, b4, w5, b5), dropout, seed, block)


@_compiled
def _linear_layers_back(
    pooled, f1, f2, z, weights, n_classes, dropout, gradients, d_f1, d_f2, d_pooled
):  # fmt: skip
    """Gradients of the linear layers and of the pooled outputs."""
    w3, w4, w5 = weights
    g3, h3, g4, h4, g5, h5 = gradients
    keep = np.float32(1 / (1 - dropout))
    _linear_back_weights(f2, z, g5, h5)
    _linear_back_input(w5, n_classes, z, d_f2)
    _through(d_f2, f2, keep)
    _linear_back_weights(f1, d_f2, g4, h4)
    _linear_back_input(w4, 32, d_f2, d_f1)
    _through(d_f1, f1, keep)
    _linear_back_weights(pooled, d_f1, g3, h3)
    _linear_back_input(w3, 32, d_f1, d_pooled)
    _through(d_pooled, pooled, keep)


@_compiled
def _backward(n_signals, weights, u, n_classes, dropout, scratch, gradients, gu):
    """Add the gradients of a block, in which gradients have replaced the logits."""
    x, a1, tiles = (
        _part(scratch, _STARTS, _X),
        _part(scratch, _STARTS, _A1),
        _part(scratch, _STARTS, _TILED),
    )
    pooled, which, z = (
        _part(scratch, _STARTS, _POOLED),
        _part(scratch, _STARTS, _WHICH),
        _part(scratch, _STARTS, _Z),
    )
    f1, f2 = _part(scratch, _STARTS, _F1), _part(scratch, _STARTS, _F2)
    d_f1, d_f2, d_pooled = (
        _part(scratch, _STARTS, _D_F1),
        _part(scratch, _STARTS, _D_F2),
        _part(scratch, _STARTS, _D_POOLED),
    )
    mixed, d_tiles, d_a1 = (
        _part(scratch, _STARTS, _MIXED),
        _part(scratch, _STARTS, _D_TILED),
        _part(scratch, _STARTS, _D_A1),
    )
    _, _, _, _, w3, _, w4, _, w5, _ = _layers(weights, _PUBLISHED, n_classes)
    g1, h1, _, h2, g3, h3, g4, h4, g5, h5 = _layers(gradients, _PUBLISHED, n_classes)
    _linear_layers_back(
        pooled, f1, f2, z, (w3, w4, w5), n_classes, dropout, (g3, h3, g4, h4, g5, h5),
        d_f1, d_f2, d_pooled,
    )  # fmt: skip
    for half in range(2):
        if n_signals <= half * _L:
            break
        xh, a1h = x[half * 64 * _L :][: 64 * _L], a1[half * 216 * _L :][: 216 * _L]
        _conv2_back(
            d_pooled[half * _L :], which[half * _L :], tiles[half * 16 * _SIX :][: 16 * _SIX], u,
            mixed, d_tiles, gu, h2, d_a1,
        )  # fmt: skip
        _conv1_back(xh, a1h, d_a1, g1, h1)


@_entry_point
def add_gradients(
    X, rows, y, signal_weights, mean, inverse_scale, weights, class_weights, softmax_first, dropout,
    seed, first_slice, slice_stride, slice_blocks, scratch, gradients, losses,
):  # fmt: skip
    """Losses and gradients of some slices of a batch.

    The function processes every `slice_stride`-th slice of `slice_blocks` blocks, from
    `first_slice` on. The order of sums depends on the slices and not on the threads.

    Parameters
    ----------
    X : float32 array of shape (n_signals, 64)
        All signals.
    rows : int64 array of shape (n_samples,)
        Positions of the signals of the batch.
    y : int64 array of shape (n_samples,)
        Class indices of the batch.
    signal_weights : float32 array of shape (n_samples,)
        Weight of each signal in the loss.
    mean, inverse_scale : float32 arrays of shape (64,)
        The input of the network is ``(X - mean) * inverse_scale``.
    weights : float32 array of shape (N_BEFORE_OUTPUT + 33 * n_classes,)
        Weights and biases of the layers, in order.
    class_weights : float32 array of shape (n_classes,)
        Weight of each class in the loss.
    softmax_first : bool
        Whether to apply softmax before the cross-entropy, which applies softmax again.
    dropout : float
        Dropout rate.
    seed : uint64
        Seed of the dropout masks.
    first_slice, slice_stride, slice_blocks : int
        First slice, distance of slices, number of blocks per slice.
    scratch : float32 array of shape (SCRATCH,)
        Working memory, initially 0; not to be shared by threads.
    gradients : float32 array of shape (n_slices, n_weights)
        Output: gradients of the mean loss over the batch.
    losses : float64 array of shape (n_slices,)
        Output: sums of losses.
    """
    n_classes, inverse_n = class_weights.size, np.float32(1 / len(y))
    u, gu = _part(scratch, _STARTS, _U), _part(scratch, _STARTS, _D_U)
    z, lanes = _part(scratch, _STARTS, _Z), _part(scratch, _STARTS, _LABELLED)
    _transformed_weights(weights[60:924], u)
    for part in range(first_slice, len(losses), slice_stride):
        G = gradients[part]
        G[:] = _0
        gu[:] = _0
        loss = 0.0
        for block in range(part * slice_blocks, (part + 1) * slice_blocks):
            labels = y[block * _B : (block + 1) * _B]
            if len(labels) == 0:
                break
            _forward(
                X, rows[block * _B : (block + 1) * _B], mean, inverse_scale, weights, u, n_classes,
                dropout, seed, block, scratch,
            )  # fmt: skip
            loss += _losses(
                z, labels, signal_weights[block * _B : (block + 1) * _B], lanes, n_classes,
                class_weights, softmax_first, inverse_n,
            )  # fmt: skip
            _backward(len(labels), weights, u, n_classes, dropout, scratch, G, gu)
        _weights_back(gu, G[60:924])
        losses[part] = loss


@_entry_point
def write_logits(X, mean, inverse_scale, weights, first_block, block_stride, scratch, logits):
    """Logits of every `block_stride`-th block of signals, without dropout.

    Parameters
    ----------
    X, mean, inverse_scale, weights, scratch
        See `add_gradients`.
    first_block, block_stride : int
        First block, distance of blocks.
    logits : float32 array of shape (n_samples, n_classes)
        Output: logits.
    """
    n_classes = logits.shape[1]
    u, z = _part(scratch, _STARTS, _U), _part(scratch, _STARTS, _Z)
    _transformed_weights(weights[60:924], u)
    for block in range(first_block, -(-len(X) // _B), block_stride):
        rows = np.arange(block * _B, min((block + 1) * _B, len(X)))
        out = logits[block * _B : (block + 1) * _B]
        _forward(
            X, rows, mean, inverse_scale, weights, u, n_classes, 0.0, np.uint64(0), block, scratch
        )
        for v in range(len(rows)):
            for k in range(n_classes):
                out[v, k] = z[k * _B + v]


# -- any grid: sums over groups of up to four tiles, whose number is an argument -------------------


@_compiled
def _load_grid(X, rows, mean, inverse_scale, places, x):
    """Copy scaled rows of X to lanes; lanes without a signal keep their values."""
    for k in range(len(places)):
        j = places[k, 0]
        out, column, shift, scale = x[places[k, 1] * _L :][:_L], X[:, j], mean[j], inverse_scale[j]
        for v in range(len(rows)):
            out[v] = (column[rows[v]] - shift) * scale


@_compiled
def _conv1_grid(x, shape, w, b, a1):
    n_rows, n, row = 2 * shape[0] + 2, (2 * shape[1] + 2) * _L, (2 * shape[1] + 4) * _L
    for c in range(6):
        bias = b[c]
        for k in range(shape[2]):
            p = w[(c * shape[2] + k) * 9 :][:9]
            p0, p1, p2, p3, p4, p5, p6, p7, p8 = (
                p[0], p[1], p[2], p[3], p[4], p[5], p[6], p[7], p[8]
            )  # fmt: skip
            lowest = _0 if k == shape[2] - 1 else -_INFINITY  # the ReLU, after the last channel
            for i in range(n_rows):
                out = a1[(c * n_rows + i) * n :][:n]
                start = (k * (n_rows + 2) + i) * row
                r, s, t = x[start:][:row], x[start + row :][:row], x[start + 2 * row :][:row]
                if k == 0:
                    for v in range(n):
                        total = (
                            bias + p0 * r[v] + p1 * r[v + _L] + p2 * r[v + 2 * _L]
                            + p3 * s[v] + p4 * s[v + _L] + p5 * s[v + 2 * _L]
                            + p6 * t[v] + p7 * t[v + _L] + p8 * t[v + 2 * _L]
                        )  # fmt: skip
                        out[v] = max(total, lowest)
                else:
                    for v in range(n):
                        total = (
                            out[v] + p0 * r[v] + p1 * r[v + _L] + p2 * r[v + 2 * _L]
                            + p3 * s[v] + p4 * s[v + _L] + p5 * s[v + 2 * _L]
                            + p6 * t[v] + p7 * t[v + _L] + p8 * t[v + 2 * _L]
                        )  # fmt: skip
                        out[v] = max(total, lowest)


@_compiled
def _transformed_group(a1, shape, first, n_tiles, tiles):
    """Compute B^T x B of some 4 x 4 tiles; row (4 a + b) * 6 + channel has their lanes."""
    n_rows, row = 2 * shape[0] + 2, (2 * shape[1] + 2) * _L
    for k in range(6):
        for tile in range(n_tiles):
            i, j = (first + tile) // shape[1] * 2, (first + tile) % shape[1] * 2
            start = (k * n_rows + i) * row + j * _L
            x, y = a1[start:][: 4 * _L], a1[start + row :][: 4 * _L]
            z, w = a1[start + 2 * row :][: 4 * _L], a1[start + 3 * row :][: 4 * _L]
            out = tiles[k * _ROW + tile * _L :][: 15 * _SIX + _L]
            for v in range(_L):
                x0, x1, x2, x3 = x[v], x[v + _L], x[v + 2 * _L], x[v + 3 * _L]
                y0, y1, y2, y3 = y[v], y[v + _L], y[v + 2 * _L], y[v + 3 * _L]
                z0, z1, z2, z3 = z[v], z[v + _L], z[v + 2 * _L], z[v + 3 * _L]
                w0, w1, w2, w3 = w[v], w[v + _L], w[v + 2 * _L], w[v + 3 * _L]
                r0, r1, r2, r3 = x0 - z0, x1 - z1, x2 - z2, x3 - z3
                out[v], out[v + _SIX] = r0 - r2, r1 + r2
                out[v + 2 * _SIX], out[v + 3 * _SIX] = r2 - r1, r1 - r3
                r0, r1, r2, r3 = y0 + z0, y1 + z1, y2 + z2, y3 + z3
                out[v + 4 * _SIX], out[v + 5 * _SIX] = r0 - r2, r1 + r2
                out[v + 6 * _SIX], out[v + 7 * _SIX] = r2 - r1, r1 - r3
                r0, r1, r2, r3 = z0 - y0, z1 - y1, z2 - y2, z3 - y3
                out[v + 8 * _SIX], out[v + 9 * _SIX] = r0 - r2, r1 + r2
                out[v + 10 * _SIX], out[v + 11 * _SIX] = r2 - r1, r1 - r3
                r0, r1, r2, r3 = y0 - w0, y1 - w1, y2 - w2, y3 - w3
                out[v + 12 * _SIX], out[v + 13 * _SIX] = r0 - r2, r1 + r2
                out[v + 14 * _SIX], out[v + 15 * _SIX] = r2 - r1, r1 - r3


@_inlined
def _n_tiles(shape):
    """Return the number of tiles, of groups of tiles, and of tiles of each group but the last."""
    n_tiles = shape[0] * shape[1]
    n_groups = -(-n_tiles // 4)
    return n_tiles, n_groups, -(-n_tiles // n_groups)


@_compiled
def _conv2_grid(a1, shape, u, b, tiles, m, pooled, which):
    """Second convolution and pooling; `pooled` and `which` are the rows of half a block."""
    n_tiles, n_groups, size = _n_tiles(shape)
    for group in range(n_groups):
        first = group * size
        here = min(size, n_tiles - first)
        _transformed_group(a1, shape, first, here, tiles)
        for tile in range(here):
            for c in range(0, 16, 4):
                _products(tiles[tile * _L :], u[c * 6 :], m)
                for k in range(4):
                    cell = ((c + k) * n_tiles + first + tile) * _B
                    _pool(m[k * _L :], b[c + k], pooled[cell:][:_L], which[cell:][:_L])


@_compiled
def _group_back(d_tiles, shape, first, n_tiles, d_a1):
    """Add B d_tiles B^T, with sums where the tiles overlap."""
    n_rows, row = 2 * shape[0] + 2, (2 * shape[1] + 2) * _L
    for k in range(6):
        for tile in range(n_tiles):
            i, j = (first + tile) // shape[1] * 2, (first + tile) % shape[1] * 2
            start = (k * n_rows + i) * row + j * _L
            s = d_tiles[k * _ROW + tile * _L :][: 15 * _SIX + _L]
            # a loop for each row: one over all would write to too many places for the compiler to
            # check that they do not overlap
            out = d_a1[start:][: 4 * _L]
            for v in range(_L):
                q0, q1, q2, q3 = s[v], s[v + _SIX], s[v + 2 * _SIX], s[v + 3 * _SIX]
                out[v] += q0
                out[v + _L] += q1 - q2 + q3
                out[v + 2 * _L] += q1 + q2 - q0
                out[v + 3 * _L] -= q3
            out = d_a1[start + row :][: 4 * _L]
            for v in range(_L):
                q0 = s[v + 4 * _SIX] - s[v + 8 * _SIX] + s[v + 12 * _SIX]
                q1 = s[v + 5 * _SIX] - s[v + 9 * _SIX] + s[v + 13 * _SIX]
                q2 = s[v + 6 * _SIX] - s[v + 10 * _SIX] + s[v + 14 * _SIX]
                q3 = s[v + 7 * _SIX] - s[v + 11 * _SIX] + s[v + 15 * _SIX]
                out[v] += q0
                out[v + _L] += q1 - q2 + q3
                out[v + 2 * _L] += q1 + q2 - q0
                out[v + 3 * _L] -= q3
            out = d_a1[start + 2 * row :][: 4 * _L]
            for v in range(_L):
                q0 = s[v + 4 * _SIX] + s[v + 8 * _SIX] - s[v]
                q1 = s[v + 5 * _SIX] + s[v + 9 * _SIX] - s[v + _SIX]
                q2 = s[v + 6 * _SIX] + s[v + 10 * _SIX] - s[v + 2 * _SIX]
                q3 = s[v + 7 * _SIX] + s[v + 11 * _SIX] - s[v + 3 * _SIX]
                out[v] += q0
                out[v + _L] += q1 - q2 + q3
                out[v + 2 * _L] += q1 + q2 - q0
                out[v + 3 * _L] -= q3
            out = d_a1[start + 3 * row :][: 4 * _L]
            for v in range(_L):
                q0, q1 = s[v + 12 * _SIX], s[v + 13 * _SIX]
                q2, q3 = s[v + 14 * _SIX], s[v + 15 * _SIX]
                out[v] -= q0
                out[v + _L] -= q1 - q2 + q3
                out[v + 2 * _L] -= q1 + q2 - q0
                out[v + 3 * _L] += q3


@_compiled
def _pool_group_back(d, which, n_all, n_tiles, upper, lower, left, right):
    for c in range(8):
        for tile in range(n_tiles):
            cell, start = (c * n_all + tile) * _B, c * _TILES + tile * _L
            _cell_back(
                d[cell:][:_L], which[cell:][:_L], upper, lower, left[start:][:_L],
                right[start:][:_L],
            )  # fmt: skip


@_compiled
def _mixed_group(left, right, sign, n, out):
    for c in range(8):
        start = c * _TILES
        _mixed(left[start:][:n], right[start:][:n], sign, out[start:][:n])


@_compiled
def _conv2_grid_back(d, which, a1, shape, tiles, u, mixed, d_tiles, gu, gb, d_a1):
    """Gradients of pooling and second convolution; `d` and `which` are the rows of half a block."""
    n_tiles, n_groups, size = _n_tiles(shape)
    for c in range(16):
        total = _0
        for tile in range(n_tiles):
            g = d[(c * n_tiles + tile) * _B :][:_L]
            for v in range(_L):
                total += g[v]
        gb[c] += total
    for v in range(d_a1.size):
        d_a1[v] = _0
    left, right, mixed = mixed[: 8 * _TILES], mixed[8 * _TILES : 16 * _TILES], mixed[16 * _TILES :]
    for group in range(n_groups):
        first = group * size
        here = min(size, n_tiles - first)
        n = here * _L
        if n_groups > 1:  # otherwise the tiles of the forward pass are still there
            _transformed_group(a1, shape, first, here, tiles)
        for v in range(d_tiles.size):
            d_tiles[v] = _0
        for a in range(4):
            upper, lower = (_1 if a < 3 else _0), (_0 if a == 0 else -_1 if a == 2 else _1)
            for c in range(0, 16, 8):
                # the data of eight channels for one row of the tiles fit in the level 1 cache
                cell = (c * n_tiles + first) * _B
                _pool_group_back(d[cell:], which[cell:], n_tiles, here, upper, lower, left, right)
                for b in range(4):
                    p = 4 * a + b
                    e = left if b == 0 else right if b == 3 else mixed
                    if b == 1:
                        _mixed_group(left, right, _1, n, mixed)
                    elif b == 2:
                        _mixed_group(left, right, -_1, n, mixed)
                    for k in range(0, 8, 4):
                        _products_back_weights(
                            e[k * _TILES :], tiles[p * _SIX :], n, gu[p * 96 + (c + k) * 6 :][:24]
                        )
                    for k in range(0, 6, 3):
                        _products_back_tiles(
                            e, u[p * 96 + c * 6 + k :], n, d_tiles[p * _SIX + k * _ROW :]
                        )
        _group_back(d_tiles, shape, first, here, d_a1)


@_compiled
def _conv1_grid_back(x, a1, shape, d_a1, gw, gb):
    n_rows, n, row = 2 * shape[0] + 2, (2 * shape[1] + 2) * _L, (2 * shape[1] + 4) * _L
    for c in range(6):
        for k in range(shape[2]):
            total = _0
            g0 = g1 = g2 = g3 = g4 = g5 = g6 = g7 = g8 = _0
            for i in range(n_rows):
                d, a = d_a1[(c * n_rows + i) * n :][:n], a1[(c * n_rows + i) * n :][:n]
                start = (k * (n_rows + 2) + i) * row
                r, s, t = x[start:][:row], x[start + row :][:row], x[start + 2 * row :][:row]
                for v in range(n):
                    e = d[v] if a[v] > _0 else _0
                    total += e
                    g0 += e * r[v]
                    g1 += e * r[v + _L]
                    g2 += e * r[v + 2 * _L]
                    g3 += e * s[v]
                    g4 += e * s[v + _L]
                    g5 += e * s[v + 2 * _L]
                    g6 += e * t[v]
                    g7 += e * t[v + _L]
                    g8 += e * t[v + 2 * _L]
            if k == 0:
                gb[c] += total
            sums = (g0, g1, g2, g3, g4, g5, g6, g7, g8)
            for tap in range(9):
                gw[(c * shape[2] + k) * 9 + tap] += sums[tap]


@_inlined
def _half(part, half):
    n = part.size // 2
    return part[half * n :][:n]


@_compiled
def _forward_grid(
    X, rows, mean, inverse_scale, places, shape, weights, u, n_classes, dropout, seed, block,
    starts, scratch,
):  # fmt: skip
    """Logits of up to one block of rows of X; `scratch` keeps the data for the backward pass."""
    x, a1 = _part(scratch, starts, _X), _part(scratch, starts, _A1)
    tiles, m = _part(scratch, starts, _TILED), _part(scratch, starts, _PRODUCTS)
    pooled, which = _part(scratch, starts, _POOLED), _part(scratch, starts, _WHICH)
    f1, f2, z = _part(scratch, starts, _F1), _part(scratch, starts, _F2), _part(scratch, starts, _Z)
    w1, b1, _, b2, w3, b3, w4, b4, w5, b5 = _layers(weights, shape, n_classes)
    for half in range(2):
        part = rows[half * _L : (half + 1) * _L]
        if len(part) == 0:
            break
        xh, a1h = _half(x, half), _half(a1, half)
        _load_grid(X, part, mean, inverse_scale, places, xh)
        _conv1_grid(xh, shape, w1, b1, a1h)
        _conv2_grid(
            a1h, shape, u, b2, _half(tiles, half), m, pooled[half * _L :], which[half * _L :]
        )
    _linear_layers(pooled, f1, f2, z, (w3, b3, w4, b4, w5, b5), dropout, seed, block)


@_compiled
def _backward_grid(
    n_signals, shape, weights, u, n_classes, dropout, starts, scratch, gradients, gu
):  # fmt: skip
    """Add the gradients of a block, in which gradients have replaced the logits."""
    x, a1 = _part(scratch, starts, _X), _part(scratch, starts, _A1)
    tiles, z = _part(scratch, starts, _TILED), _part(scratch, starts, _Z)
    pooled, which = _part(scratch, starts, _POOLED), _part(scratch, starts, _WHICH)
    f1, f2 = _part(scratch, starts, _F1), _part(scratch, starts, _F2)
    d_f1, d_f2 = _part(scratch, starts, _D_F1), _part(scratch, starts, _D_F2)
    d_pooled, mixed = _part(scratch, starts, _D_POOLED), _part(scratch, starts, _MIXED)
    d_tiles, d_a1 = _part(scratch, starts, _D_TILED), _part(scratch, starts, _D_A1)
    _, _, _, _, w3, _, w4, _, w5, _ = _layers(weights, shape, n_classes)
    g1, h1, _, h2, g3, h3, g4, h4, g5, h5 = _layers(gradients, shape, n_classes)
    _linear_layers_back(
        pooled, f1, f2, z, (w3, w4, w5), n_classes, dropout, (g3, h3, g4, h4, g5, h5),
        d_f1, d_f2, d_pooled,
    )  # fmt: skip
    for half in range(2):
        if n_signals <= half * _L:
            break
        a1h = _half(a1, half)
        _conv2_grid_back(
            d_pooled[half * _L :], which[half * _L :], a1h, shape, _half(tiles, half), u, mixed,
            d_tiles, gu, h2, d_a1,
        )  # fmt: skip
        _conv1_grid_back(_half(x, half), a1h, shape, d_a1, g1, h1)


@_entry_point
def add_grid_gradients(
    X, rows, y, signal_weights, mean, inverse_scale, places, shape, starts, weights, class_weights,
    softmax_first, dropout, seed, first_slice, slice_stride, slice_blocks, scratch, gradients,
    losses,
):  # fmt: skip
    """`add_gradients` for any grid.

    Parameters
    ----------
    X : float32 array of shape (n_signals, n_measurements)
        All signals.
    mean, inverse_scale : float32 arrays of shape (n_measurements,)
        The input of the network is ``(X - mean) * inverse_scale``.
    places : int64 array of shape (n_used, 2)
        Columns of X, and their positions in the input, in (channel, row, column) order; all other
        positions are 0.
    shape : tuple of int
        Rows and columns of the output of the pooling, and number of input channels.
    starts : int64 array of shape (19,)
        Positions of the parts of the working memory: :func:`scratch_starts`.
    scratch : float32 array of shape (starts[-1],)
        Working memory, initially 0; not to be shared by threads.
    rows, y, signal_weights, weights, class_weights, softmax_first, dropout, seed
        See `add_gradients`.
    first_slice, slice_stride, slice_blocks, gradients, losses
        See `add_gradients`.
    """
    n_classes, inverse_n = class_weights.size, np.float32(1 / len(y))
    u, gu = _part(scratch, starts, _U), _part(scratch, starts, _D_U)
    z, lanes = _part(scratch, starts, _Z), _part(scratch, starts, _LABELLED)
    _transformed_weights(_layers(weights, shape, n_classes)[2], u)
    for part in range(first_slice, len(losses), slice_stride):
        G = gradients[part]
        G[:] = _0
        gu[:] = _0
        loss = 0.0
        for block in range(part * slice_blocks, (part + 1) * slice_blocks):
            labels = y[block * _B : (block + 1) * _B]
            if len(labels) == 0:
                break
            _forward_grid(
                X, rows[block * _B : (block + 1) * _B], mean, inverse_scale, places, shape, weights,
                u, n_classes, dropout, seed, block, starts, scratch,
            )  # fmt: skip
            loss += _losses(
                z, labels, signal_weights[block * _B : (block + 1) * _B], lanes, n_classes,
                class_weights, softmax_first, inverse_n,
            )  # fmt: skip
            _backward_grid(
                len(labels), shape, weights, u, n_classes, dropout, starts, scratch, G, gu
            )
        _weights_back(gu, _layers(G, shape, n_classes)[2])
        losses[part] = loss


@_entry_point
def write_grid_logits(
    X, mean, inverse_scale, places, shape, starts, weights, first_block, block_stride, scratch,
    logits,
):  # fmt: skip
    """`write_logits` for any grid; for the parameters see `add_grid_gradients`."""
    n_classes = logits.shape[1]
    u, z = _part(scratch, starts, _U), _part(scratch, starts, _Z)
    _transformed_weights(_layers(weights, shape, n_classes)[2], u)
    for block in range(first_block, -(-len(X) // _B), block_stride):
        rows = np.arange(block * _B, min((block + 1) * _B, len(X)))
        out = logits[block * _B : (block + 1) * _B]
        _forward_grid(
            X, rows, mean, inverse_scale, places, shape, weights, u, n_classes, 0.0, np.uint64(0),
            block, starts, scratch,
        )  # fmt: skip
        for v in range(len(rows)):
            for k in range(n_classes):
                out[v, k] = z[k * _B + v]
