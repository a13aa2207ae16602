"""The paper's CNN, forward and backward in one pass over the cache, compiled by numba.

Activations of a block of `LANES` signals lie lane by lane: element (c, i, j) of signal v at
``[((c * rows + i) * columns + j) * LANES + v]``. Each innermost loop then runs over lanes, or
over the lanes of a whole image row, without gaps, and the compiler makes vector instructions
of it. A general convolution has no such layout, and for six channels more overhead than
arithmetic.

The compiler vectorises innermost loops alone, and only where it sees that no index is
negative and that what is read is not written: hence sums of nine or eight products written
out, weights taken into tuples before a loop, and slices in place of offsets. All stands in one
file, since numba's cache of compiled functions looks at no other when the code has changed.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

LANES = 64
N_BEFORE_OUTPUT = 4076  # parameters before the output layer, which has 33 for each class
MAX_CLASSES = 16

_L = LANES
_ROW8, _ROW6, _ROW4 = 8 * _L, 6 * _L, 4 * _L  # of the input, after one and two convolutions
# x, a1, a2, pooled, dropped, f1, f2, logits, and gradients of dropped, f1, f2, a2, a1
_SIZES = (64, 216, 256, 64, 64, 32, 32, MAX_CLASSES, 64, 32, 32, 512, 216)
_STARTS = tuple(sum(_SIZES[:k]) * _L for k in range(len(_SIZES) + 1))
SCRATCH = _STARTS[-1]

_compiled: Any = njit(
    nogil=True, cache=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz", "arcp"}
)
_inlined: Any = njit(inline="always")
_0 = np.float32(0)


@_inlined
def _part(scratch, k):
    return scratch[_STARTS[k] : _STARTS[k + 1]]


@_inlined
def _layers(w, n_classes):
    """Weights and biases of the five layers."""
    last = N_BEFORE_OUTPUT + 32 * n_classes
    return (
        w[:54], w[54:60], w[60:924], w[924:940], w[940:2988], w[2988:3020], w[3020:4044],
        w[4044:4076], w[4076:last], w[last : last + n_classes],
    )  # fmt: skip


@_inlined
def _nine(w, at):
    p = w[at : at + 9]
    return p[0], p[1], p[2], p[3], p[4], p[5], p[6], p[7], p[8]


@_inlined
def _window(p, a, v, row):
    """Sum over a 3 x 3 window whose rows stand `row` apart."""
    return (
        p[0] * a[v] + p[1] * a[v + _L] + p[2] * a[v + 2 * _L]
        + p[3] * a[v + row] + p[4] * a[v + row + _L] + p[5] * a[v + row + 2 * _L]
        + p[6] * a[v + 2 * row] + p[7] * a[v + 2 * row + _L] + p[8] * a[v + 2 * row + 2 * _L]
    )  # fmt: skip


@_inlined
def _window_of(a, v):
    """The values of a 3 x 3 window on rows of six columns."""
    return (
        a[v], a[v + _L], a[v + 2 * _L], a[v + _ROW6], a[v + _ROW6 + _L], a[v + _ROW6 + 2 * _L],
        a[v + 2 * _ROW6], a[v + 2 * _ROW6 + _L], a[v + 2 * _ROW6 + 2 * _L],
    )  # fmt: skip


@_inlined
def _added_window(g, d, a, v, row):
    """`g` and the products of `d` with a 3 x 3 window."""
    return (
        g[0] + d * a[v], g[1] + d * a[v + _L], g[2] + d * a[v + 2 * _L],
        g[3] + d * a[v + row], g[4] + d * a[v + row + _L], g[5] + d * a[v + row + 2 * _L],
        g[6] + d * a[v + 2 * row], g[7] + d * a[v + 2 * row + _L],
        g[8] + d * a[v + 2 * row + 2 * _L],
    )  # fmt: skip


@_inlined
def _add_nine(out, at, g):
    for t in range(9):
        out[at + t] += g[t]


@_compiled
def _conv1(x, w, b, a1):
    for c in range(6):
        p, bias = _nine(w, c * 9), b[c]
        for i in range(6):
            out = a1[(c * 6 + i) * _ROW6 : (c * 6 + i + 1) * _ROW6]
            rows = x[i * _ROW8 : (i + 3) * _ROW8]
            for v in range(_ROW6):
                out[v] = max(bias + _window(p, rows, v, _ROW8), _0)


@_compiled
def _conv2(a1, w, b, a2):
    for c in range(0, 16, 2):  # two channels at a time share what they read
        bias0, bias1 = b[c], b[c + 1]
        for i in range(4):
            out0 = a2[(c * 4 + i) * _ROW4 : (c * 4 + i + 1) * _ROW4]
            out1 = a2[(c * 4 + i + 4) * _ROW4 : (c * 4 + i + 5) * _ROW4]
            for v in range(_ROW4):
                out0[v] = bias0
                out1[v] = bias1
            for k in range(6):
                p0, p1, p2, p3, p4, p5, p6, p7, p8 = _nine(w, (c * 6 + k) * 9)
                q0, q1, q2, q3, q4, q5, q6, q7, q8 = _nine(w, (c * 6 + k + 6) * 9)
                rows = a1[(k * 6 + i) * _ROW6 : (k * 6 + i + 3) * _ROW6]
                for v in range(_ROW4):
                    d0, d1, d2, d3, d4, d5, d6, d7, d8 = _window_of(rows, v)
                    out0[v] += (
                        p0 * d0 + p1 * d1 + p2 * d2 + p3 * d3 + p4 * d4 + p5 * d5 + p6 * d6
                        + p7 * d7 + p8 * d8
                    )  # fmt: skip
                    out1[v] += (
                        q0 * d0 + q1 * d1 + q2 * d2 + q3 * d3 + q4 * d4 + q5 * d5 + q6 * d6
                        + q7 * d7 + q8 * d8
                    )  # fmt: skip


@_compiled
def _pool(a2, pooled):
    """Largest of 2 x 2, and ReLU, which may as well come after it."""
    for cell in range(64):
        c, i, j = cell // 4, cell % 4 // 2, cell % 2
        corner = a2[((c * 4 + 2 * i) * 4 + 2 * j) * _L :][: _ROW4 + 2 * _L]
        out = pooled[cell * _L : (cell + 1) * _L]
        for v in range(_L):
            upper, lower = (
                max(corner[v], corner[v + _L]),
                max(corner[v + _ROW4], corner[v + _ROW4 + _L]),
            )
            out[v] = max(max(upper, lower), _0)


@_compiled
def _linear(h, w, b, out):
    n_out = b.size
    n_in = w.size // n_out
    for o in range(n_out):
        z, row, bias = out[o * _L : (o + 1) * _L], w[o * n_in : (o + 1) * n_in], b[o]
        for v in range(_L):
            z[v] = bias
        for i in range(0, n_in, 8):
            a, p = h[i * _L : (i + 8) * _L], row[i : i + 8]
            t = (p[0], p[1], p[2], p[3], p[4], p[5], p[6], p[7])
            for v in range(_L):
                z[v] += (
                    t[0] * a[v] + t[1] * a[v + _L] + t[2] * a[v + 2 * _L] + t[3] * a[v + 3 * _L]
                    + t[4] * a[v + 4 * _L] + t[5] * a[v + 5 * _L] + t[6] * a[v + 6 * _L]
                    + t[7] * a[v + 7 * _L]
                )  # fmt: skip


@_compiled
def _relu(z):
    for v in range(z.size):
        z[v] = max(z[v], _0)


@_compiled
def _drop(h, out, states, threshold, scale):
    """Dropout with a xorshift generator (Marsaglia, 2003) in each lane."""
    for row in range(h.size // _L):
        a, z = h[row * _L : (row + 1) * _L], out[row * _L : (row + 1) * _L]
        for v in range(_L):
            s = states[v]
            s = np.uint32(s ^ np.uint32(s << np.uint32(13)))
            s = np.uint32(s ^ np.uint32(s >> np.uint32(17)))
            s = np.uint32(s ^ np.uint32(s << np.uint32(5)))
            states[v] = s
            z[v] = a[v] * scale if s >= threshold else _0


@_compiled
def _seed(states, seed, block):
    """A state for each lane of a block: splitmix64 (Steele et al., 2014) of their numbers."""
    for v in range(_L):
        z = seed + np.uint64(block * _L + v + 1) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        states[v] = np.uint32((z ^ (z >> np.uint64(31))) >> np.uint64(32)) | np.uint32(1)


@_compiled
def _losses(z, y, rows, n_classes, class_weights, softmax_first, inverse_n):
    """Sum of the cross-entropies; the logits become their gradients times `inverse_n`."""
    total = 0.0
    for v in range(rows):
        true, top, norm = y[v], z[v], _0
        for k in range(1, n_classes):
            top = max(top, z[k * _L + v])
        for k in range(n_classes):
            e = math.exp(z[k * _L + v] - top)
            norm += e
            if softmax_first:
                z[k * _L + v] = e
        weight = class_weights[true]
        if not softmax_first:
            total += weight * (top + math.log(norm) - z[true * _L + v])
            for k in range(n_classes):
                p = math.exp(z[k * _L + v] - top) / norm
                z[k * _L + v] = weight * inverse_n * (p - (np.float32(1) if k == true else _0))
        else:
            again, mean = _0, _0
            for k in range(n_classes):
                z[k * _L + v] /= norm
                again += math.exp(z[k * _L + v])
            total += weight * (math.log(again) - z[true * _L + v])
            for k in range(n_classes):
                p = z[k * _L + v]
                mean += p * (math.exp(p) / again - (np.float32(1) if k == true else _0))
            for k in range(n_classes):
                p = z[k * _L + v]
                d = math.exp(p) / again - (np.float32(1) if k == true else _0)
                z[k * _L + v] = weight * inverse_n * p * (d - mean)
    for v in range(rows, _L):  # lanes without a signal have no gradient
        for k in range(n_classes):
            z[k * _L + v] = _0
    return total


@_compiled
def _linear_back(h, w, dz, dh, gw, gb):
    n_out = gb.size
    n_in = gw.size // n_out
    for i in range(n_in):
        out = dh[i * _L : (i + 1) * _L]
        for v in range(_L):
            out[v] = _0
        column = w[i:]
        whole = n_out // 4 * 4
        for o in range(0, whole, 4):
            p0, p1 = column[o * n_in], column[(o + 1) * n_in]
            p2, p3 = column[(o + 2) * n_in], column[(o + 3) * n_in]
            d = dz[o * _L : (o + 4) * _L]
            for v in range(_L):
                out[v] += p0 * d[v] + p1 * d[v + _L] + p2 * d[v + 2 * _L] + p3 * d[v + 3 * _L]
        for o in range(whole, n_out):
            p0, d = column[o * n_in], dz[o * _L : (o + 1) * _L]
            for v in range(_L):
                out[v] += p0 * d[v]
    for o in range(n_out):
        d, total = dz[o * _L : (o + 1) * _L], _0
        for v in range(_L):
            total += d[v]
        gb[o] += total
        g = gw[o * n_in : (o + 1) * n_in]
        for i in range(0, n_in, 8):
            a = h[i * _L : (i + 8) * _L]
            t = (_0, _0, _0, _0, _0, _0, _0, _0)
            for v in range(_L):
                e = d[v]
                t = (
                    t[0] + e * a[v], t[1] + e * a[v + _L], t[2] + e * a[v + 2 * _L],
                    t[3] + e * a[v + 3 * _L], t[4] + e * a[v + 4 * _L], t[5] + e * a[v + 5 * _L],
                    t[6] + e * a[v + 6 * _L], t[7] + e * a[v + 7 * _L],
                )  # fmt: skip
            for k in range(8):
                g[i + k] += t[k]


@_compiled
def _through(d, h, scale):
    """The gradient behind ReLU and dropout: what was 0 passes nothing on."""
    for v in range(d.size):
        d[v] = d[v] * scale if h[v] > _0 else _0


@_compiled
def _pool_back(a2, pooled, d, da2):
    """To the first of the largest of 2 x 2; rows of `da2` have two columns of 0 at each end."""
    for cell in range(64):
        c, i, j = cell // 4, cell % 4 // 2, cell % 2
        a = a2[((c * 4 + 2 * i) * 4 + 2 * j) * _L :][: _ROW4 + 2 * _L]
        out = da2[(c * 4 + 2 * i) * _ROW8 + (2 + 2 * j) * _L :][: _ROW8 + 2 * _L]
        top, g = pooled[cell * _L : (cell + 1) * _L], d[cell * _L : (cell + 1) * _L]
        for v in range(_L):
            e = g[v] if top[v] > _0 else _0
            first = a[v] == top[v]
            second = (a[v + _L] == top[v]) & (not first)
            third = (a[v + _ROW4] == top[v]) & (not first) & (not second)
            out[v] = e if first else _0
            out[v + _L] = e if second else _0
            out[v + _ROW8] = e if third else _0
            out[v + _ROW8 + _L] = _0 if (first | second | third) else e


@_compiled
def _conv2_back_weights(a1, da2, gw, gb):
    for c in range(16):
        total = _0
        for i in range(4):
            d = da2[(c * 4 + i) * _ROW8 + 2 * _L :][:_ROW4]
            for v in range(_ROW4):
                total += d[v]
        gb[c] += total
        for k in range(6):
            g0 = g1 = g2 = g3 = g4 = g5 = g6 = g7 = g8 = _0
            for i in range(4):
                d = da2[(c * 4 + i) * _ROW8 + 2 * _L :][:_ROW4]
                rows = a1[(k * 6 + i) * _ROW6 : (k * 6 + i + 3) * _ROW6]
                for v in range(_ROW4):
                    e = d[v]
                    g0 += e * rows[v]
                    g1 += e * rows[v + _L]
                    g2 += e * rows[v + 2 * _L]
                    g3 += e * rows[v + _ROW6]
                    g4 += e * rows[v + _ROW6 + _L]
                    g5 += e * rows[v + _ROW6 + 2 * _L]
                    g6 += e * rows[v + 2 * _ROW6]
                    g7 += e * rows[v + 2 * _ROW6 + _L]
                    g8 += e * rows[v + 2 * _ROW6 + 2 * _L]
            _add_nine(gw, (c * 6 + k) * 9, (g0, g1, g2, g3, g4, g5, g6, g7, g8))


@_compiled
def _conv2_back_input(da2, w, da1):
    for v in range(da1.size):
        da1[v] = _0
    for i in range(4):
        for di in range(3):
            for k in range(0, 6, 2):  # 2 x 2 channels at a time
                out0 = da1[(k * 6 + i + di) * _ROW6 :][:_ROW6]
                out1 = da1[(k * 6 + i + di + 6) * _ROW6 :][:_ROW6]
                for c in range(0, 16, 2):
                    d = da2[(c * 4 + i) * _ROW8 :][:_ROW8]
                    e = da2[(c * 4 + i + 4) * _ROW8 :][:_ROW8]
                    p, q = (
                        w[(c * 6 + k) * 9 + 3 * di :][:12],
                        w[(c * 6 + k + 6) * 9 + 3 * di :][:12],
                    )
                    p0, p1, p2, r0, r1, r2 = p[0], p[1], p[2], p[9], p[10], p[11]
                    q0, q1, q2, s0, s1, s2 = q[0], q[1], q[2], q[9], q[10], q[11]
                    for v in range(_ROW6):
                        d0, d1, d2 = d[v + 2 * _L], d[v + _L], d[v]
                        e0, e1, e2 = e[v + 2 * _L], e[v + _L], e[v]
                        out0[v] += p0 * d0 + p1 * d1 + p2 * d2 + q0 * e0 + q1 * e1 + q2 * e2
                        out1[v] += r0 * d0 + r1 * d1 + r2 * d2 + s0 * e0 + s1 * e1 + s2 * e2


@_compiled
def _conv1_back(x, a1, da1, gw, gb):
    for c in range(6):
        total = _0
        g = (_0, _0, _0, _0, _0, _0, _0, _0, _0)
        for i in range(6):
            d = da1[(c * 6 + i) * _ROW6 :][:_ROW6]
            a = a1[(c * 6 + i) * _ROW6 :][:_ROW6]
            rows = x[i * _ROW8 : (i + 3) * _ROW8]
            for v in range(_ROW6):
                e = d[v] if a[v] > _0 else _0
                total += e
                g = _added_window(g, e, rows, v, _ROW8)
        gb[c] += total
        _add_nine(gw, c * 9, g)


@_compiled
def add_gradients(
    X, y, mean, inverse_scale, weights, class_weights, softmax_first, dropout, seed,
    first_slice, slice_stride, slice_blocks, scratch, gradients, losses,
):  # fmt: skip
    """Losses of some slices of a batch, and their gradients with respect to all weights.

    Every `slice_stride`-th slice of `slice_blocks` blocks is worked off, from `first_slice`
    on. The slices, not the threads, decide what is summed with what.

    Parameters
    ----------
    X : float32 array of shape (n, 64)
    y : int64 array of shape (n,)
        Class indices.
    mean, inverse_scale : float32 arrays of shape (64,)
        ``(X - mean) * inverse_scale`` is what the network sees.
    weights : float32 array of shape (N_BEFORE_OUTPUT + 33 * n_classes,)
        Weights and biases of the layers, in their order.
    class_weights : float32 array of shape (n_classes,)
    softmax_first : bool
    dropout : float
    seed : uint64
        Of the dropout's masks.
    first_slice, slice_stride, slice_blocks : int
    scratch : float32 array of shape (SCRATCH,)
        All 0 at first; for one caller at a time.
    gradients : float32 array of shape (n_slices, n_weights)
        To be written: gradients of the mean loss over the batch.
    losses : float64 array of shape (n_slices,)
        To be written: sums of losses.
    """
    n, n_classes = len(y), class_weights.size
    x, a1, a2 = _part(scratch, 0), _part(scratch, 1), _part(scratch, 2)
    pooled, h = _part(scratch, 3), _part(scratch, 4)
    f1, f2, z = _part(scratch, 5), _part(scratch, 6), _part(scratch, 7)
    dh, d1, d2 = _part(scratch, 8), _part(scratch, 9), _part(scratch, 10)
    da2, da1 = _part(scratch, 11), _part(scratch, 12)
    w1, b1, w2, b2, w3, b3, w4, b4, w5, b5 = _layers(weights, n_classes)
    inverse_n = np.float32(1 / n)
    keep = np.float32(1 / (1 - dropout))
    threshold = np.uint32(dropout * 4294967296.0)
    states = np.empty(_L, np.uint32)
    dropping = dropout > 0
    if not dropping:
        h = pooled
    for part in range(first_slice, len(losses), slice_stride):
        G = gradients[part]
        G[:] = _0
        g1, h1, g2, h2, g3, h3, g4, h4, g5, h5 = _layers(G, n_classes)
        loss = 0.0
        for block in range(part * slice_blocks, (part + 1) * slice_blocks):
            start = block * _L
            rows = min(_L, n - start)
            if rows <= 0:
                break
            for v in range(rows):
                signal = X[start + v]
                for j in range(64):
                    x[j * _L + v] = (signal[j] - mean[j]) * inverse_scale[j]
            _conv1(x, w1, b1, a1)
            _conv2(a1, w2, b2, a2)
            _pool(a2, pooled)
            if dropping:
                _seed(states, seed, block)
                _drop(pooled, h, states, threshold, keep)
            _linear(h, w3, b3, f1)
            _relu(f1)
            if dropping:
                _drop(f1, f1, states, threshold, keep)
            _linear(f1, w4, b4, f2)
            _relu(f2)
            if dropping:
                _drop(f2, f2, states, threshold, keep)
            _linear(f2, w5, b5, z)
            loss += _losses(
                z, y[start : start + rows], rows, n_classes, class_weights, softmax_first, inverse_n
            )
            _linear_back(f2, w5, z, d2, g5, h5)
            _through(d2, f2, keep)
            _linear_back(f1, w4, d2, d1, g4, h4)
            _through(d1, f1, keep)
            _linear_back(h, w3, d1, dh, g3, h3)
            _through(dh, h, keep)
            _pool_back(a2, pooled, dh, da2)
            _conv2_back_weights(a1, da2, g2, h2)
            _conv2_back_input(da2, w2, da1)
            _conv1_back(x, a1, da1, g1, h1)
        losses[part] = loss
