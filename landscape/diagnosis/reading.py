"""What users give is read here: data and codes as they come, with notes of what was made of them.

Each function returns its arrays and a list of sentences, one for each thing that was not as plain
as (N, n) floats. Nothing is changed silently; what cannot be meant raises `ValueError`.
"""

import math
from typing import Any

import numpy as np

from linvae_jax._internal import checks

_ROWS = 4096  # looked at in one go, so that no second copy of all data is made


def data(x: Any, family: str) -> tuple[np.ndarray, list[str]]:
    """Read data (N, ...) for a likelihood, as (N, n).

    Raises:
        ValueError: no real numbers; NaN or Inf; one dimension; of "bernoulli" numbers outside
            [0, 1]; of "poisson" negative or fractional ones.
    """
    values = np.asarray(checks.numbers("data", x))
    if values.ndim < 2 or 0 in values.shape:
        checks.fail("data", f"shape {values.shape}", "(N, ...), none empty: one datum per row")
    notes = _halves("data", values)
    if values.ndim > 2:
        n = math.prod(values.shape[1:])
        notes.append(f"Data of shape {values.shape[1:]} are taken as n = {n:,} numbers each.")
        values = values.reshape(len(values), -1)
    checks.finite("data", values)
    _check_range(values, family)
    low, high = values.min(axis=0), values.max(axis=0)
    if constant := int((low == high).sum()):
        notes.append(
            f"{constant:,} of {len(low):,} columns are constant: they have nothing to be coded. "
            "A mean over n counts them all the same."
        )
    return values, notes


def _check_range(values: np.ndarray, family: str) -> None:
    """Refuse numbers that a likelihood cannot have produced."""
    if family == "gaussian":
        return
    least, most = float(values.min()), float(values.max())
    if family == "bernoulli" and not (least >= 0 and most <= 1):
        checks.fail(
            "data", f"numbers from {least:.4g} to {most:.4g}",
            "numbers in [0, 1], of which a cross-entropy is made",
            _in_the_unit_interval(least, most),
        )  # fmt: skip
    if family == "poisson":
        if least < 0:
            checks.fail("data", f"numbers down to {least:.4g}", "counts, for a Poisson likelihood")
        if values.dtype.kind == "f":
            pieces = range(0, len(values), _ROWS)
            parts = (values[i : i + _ROWS] for i in pieces)
            if share := sum(int((p != np.floor(p)).sum()) for p in parts) / values.size:
                checks.fail(
                    "data", f"{share:.0%} numbers that are not whole",
                    "counts, for a Poisson likelihood",
                    "Normalised or logarithms of counts are no counts: give those.",
                )  # fmt: skip


def _in_the_unit_interval(least: float, most: float) -> str:
    """Say what numbers outside [0, 1] may be."""
    if least >= 0 and most <= 255:
        return "8-bit pixels: divide by 255."
    if least >= -1 and most <= 1:
        return "Pixels in [-1, 1] have no cross-entropy: train on (x + 1)/2."
    return ""


def codes(mean: Any, log_var: Any, rows: int | None) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Read codes: means (N, k), log variances (N, k) or (k,); `rows` is N of the data, if known.

    Raises:
        ValueError: no real numbers, NaN or Inf, other shapes, another N; log variances that are all
            positive, as variances and standard deviations are. (If means and log variances are all
            near 0, latents have collapsed, and these may be positive.)
    """
    mean = np.asarray(checks.data_matrix("mean", mean))
    log_var = np.asarray(checks.numbers("log_var", log_var))
    N, k = mean.shape
    if N < 2:
        checks.fail("mean", "one datum (N = 1)", "codes of at least two data")
    if rows is not None and rows != N:
        checks.fail("mean", f"codes of {N:,} data", f"codes of the {rows:,} data")
    if log_var.shape not in ((N, k), (k,)):
        checks.fail("log_var", f"shape {log_var.shape}", f"shape ({N}, {k}) or ({k},)")
    checks.finite("log_var", log_var)
    notes = _halves("mean", mean) + _halves("log_var", log_var)
    least, most = float(log_var.min()), float(log_var.max())
    # of variances that are all so small means would vary by about 1
    near = most < 0.1 and float(np.square(mean, dtype=np.float64).mean()) < 0.1
    if least > 0 and near:
        notes.append("All log variances are a little above 0; so are those of collapsed latents.")
    elif least > 0:
        checks.fail(
            "log_var", f"numbers that are all positive, from {least:.3g} to {most:.3g}",
            "log variances, most of which are below 0",
            "Of variances v give log v, of standard deviations s give 2 log s.",
        )  # fmt: skip
    if most > math.log(100):
        notes.append(
            f"The largest posterior variance is exp({most:.3g}): training blew up, or these are no "
            "log variances."
        )
    return mean, log_var, notes


def reconstruction(given: Any, x: np.ndarray, family: str) -> tuple[np.ndarray, list[str]]:
    """Read reconstructions, of the shape of the data or (N, n): means of p(x | z).

    Raises:
        ValueError: another shape; NaN or Inf; of "bernoulli" numbers outside [0, 1], as logits
            are; of "poisson" numbers that are not positive; of "gaussian" the data themselves.
    """
    values = np.asarray(checks.numbers("reconstruction", given))
    if values.ndim < 2 or len(values) != len(x) or math.prod(values.shape[1:]) != x.shape[1]:
        checks.fail("reconstruction", f"shape {values.shape}", f"that of the data, {x.shape}")
    values = values.reshape(x.shape)
    checks.finite("reconstruction", values)
    least, most = float(values.min()), float(values.max())
    if family == "bernoulli" and not (least >= 0 and most <= 1):
        got, hint = f"numbers from {least:.4g} to {most:.4g}", "Of logits give the sigmoid."
        checks.fail("reconstruction", got, "probabilities, in [0, 1]", hint)
    if family == "poisson" and least <= 0:
        hint = "Of log rates give the exp."
        checks.fail("reconstruction", f"numbers down to {least:.4g}", "rates > 0", hint)
    if family == "gaussian" and np.array_equal(values, x):
        checks.fail("reconstruction", "the data themselves", "what the decoder gives")
    return values, _halves("reconstruction", values)


def _halves(name: str, values: np.ndarray) -> list[str]:
    """Note numbers of half precision."""
    if values.dtype.kind != "f" or values.dtype.itemsize >= 4:
        return []
    return [f"The {name} came in {values.dtype}, three digits; they are computed with in float32."]


def error(family: str, x: np.ndarray, means: np.ndarray) -> float:
    """Average the error of reconstructions over data, summed over dimensions, on the host.

    Of "gaussian" it is ‖x − x̂‖², in the data's unit²; else −log p(x | z), in nats. As PyTorch has
    it, a logarithm in the cross-entropy is −100 at least.
    """
    total = 0.0
    for i in range(0, len(x), _ROWS):
        a, b = x[i : i + _ROWS].astype(np.float64), means[i : i + _ROWS].astype(np.float64)
        if family == "gaussian":
            total += float(((a - b) ** 2).sum())
        elif family == "bernoulli":
            with np.errstate(divide="ignore"):
                on, off = np.maximum(np.log(b), -100), np.maximum(np.log1p(-b), -100)
            total -= float((a * on + (1 - a) * off).sum())
        else:
            factorial = np.array([math.lgamma(v + 1) for v in np.unique(a)])
            places = np.searchsorted(np.unique(a), a)
            total += float((b - a * np.log(b) + factorial[places]).sum())
    return total / len(x)
