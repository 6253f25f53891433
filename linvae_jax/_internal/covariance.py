"""BLAS makes the covariance of rows in a CPU's memory, and knows that it is symmetric.

XLA's product does not know, and takes twice as long, after a copy.
"""

from typing import Any

import numpy as np

from linvae_jax._internal import arrays, checks

# rows that BLAS multiplies in one go: few enough to be reused, enough to keep it busy
_ROWS = 8192


def of_rows(name: str, x: np.ndarray, dtype: np.dtype[Any]) -> tuple[np.ndarray, np.ndarray]:
    """Compute mean (n,) and covariance (n, n) of known rows (N, n), in float64.

    Rows are multiplied in the dtype, float32 or float64. NaN or Inf among them is refused.
    """
    # beyond these squares may underflow or overflow whose covariance does not
    low, high = (1e-10, 1e10) if dtype == np.float32 else (1e-100, 1e100)
    if x.dtype == dtype and (found := _of_second_moments(x, low, high)) is not None:
        return found
    mean = arrays.centre(x)
    if not np.isfinite(mean).all():
        checks.finite(name, x)
    cov = _centred_product(name, x, mean, dtype, 1.0)
    if not low <= cov.diagonal().max() <= high:
        spread = max(
            float(np.abs(arrays.host_less(name, x[i : i + _ROWS], mean, np.float64)).max())
            for i in range(0, len(x), _ROWS)
        )
        if 0 < spread < np.inf:
            # a power of two rounds nothing
            cov = _centred_product(name, x, mean, dtype, 2.0 ** np.floor(np.log2(spread)))
    return mean, cov


def _of_second_moments(
    x: np.ndarray, low: float, high: float
) -> tuple[np.ndarray, np.ndarray] | None:
    """Compute the covariance as E xxᵀ − μμᵀ, without a copy of the data; None if digits are lost.

    Where each variance is at least a fifth of the mean square, the difference has at most five
    times the rounding of the product: two bits.
    """
    mean = arrays.mean(x)
    if not np.isfinite(mean).all():
        return None
    with np.errstate(all="ignore"):
        # some rows tell most data that are far from zero
        some = np.square(x[:: max(len(x) // 1000, 1)]).mean(axis=0, dtype=np.float64)
        if ((0.8 * some < mean * mean) & (some > 0)).any():
            return None
        step = len(x) if x.dtype == np.float64 else _ROWS  # sums of float32 are made in float64
        total = np.zeros((x.shape[1], x.shape[1]))
        for i in range(0, len(x), step):
            total += x[i : i + step].T @ x[i : i + step]
        total /= len(x)
        squares = total.diagonal().copy()
        total -= np.outer(mean, mean)
        kept = (total.diagonal() >= 0.2 * squares).all()
        return (mean, total) if kept and low <= total.diagonal().max() <= high else None


def _centred_product(
    name: str, x: np.ndarray, mean: np.ndarray, dtype: Any, scale: float
) -> np.ndarray:
    """Compute (1/N) Σ (x−mean)(x−mean)ᵀ, (n, n) in float64, from rows over a scale."""
    total = np.zeros((x.shape[1], x.shape[1]))
    buffer = np.empty((min(_ROWS, len(x)), x.shape[1]), dtype)
    with np.errstate(all="ignore"):
        for i in range(0, len(x), _ROWS):
            rows = x[i : i + _ROWS]
            centred = arrays.host_less(name, rows, mean, dtype, buffer[: len(rows)])
            if scale != 1:
                centred /= dtype.type(scale)
            total += centred.T @ centred
        return total / len(x) * scale * scale
