"""Data as they come, through every public function that takes data: right, or a clear refusal.

One strategy draws dtype, byte order, container, unit, offset, rank, size, repeated rows and
constant columns. What JAX should make of them is computed from the very same numbers by NumPy in
long double. A warning is an error here (pyproject.toml), so is a NaN, and so is a `ValueError`
without the name of the argument or without a reason that the data give.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sparse
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from jax.experimental import sparse as jsparse

import linvae_jax
from linvae_jax import (
    collapse,
    evaluation,
    information,
    linear,
    linear_task,
    network_task,
    ppca,
    training,
)
from linvae_jax import moments as mom
from linvae_jax.data import preprocessing, synthetic
from linvae_jax.sources import Windows

pytestmark = pytest.mark.usefixtures("no_annotation_checks")

n = 3
SIZES = (2, 12)  # each shape compiles once
KEY = jax.random.key(0)
Wide = np.longdouble

DTYPES = (
    *("bool", "int8", "uint8", "int16", "int32", "uint32", "int64", "uint64"),
    *("float16", "float32", "float64", "longdouble"),
)
CONTAINERS: dict[str, Callable[[np.ndarray], Any]] = {
    "array": lambda x: x,
    "Fortran order": np.asfortranarray,
    "every second row": lambda x: np.repeat(x, 2, axis=0)[::2],
    "backwards": lambda x: x[::-1].copy()[::-1],
    "read-only": lambda x: _read_only(x.copy()),
    "other byte order": lambda x: x.astype(x.dtype.newbyteorder("S")),
    "list": lambda x: x.tolist(),
    "tuple": lambda x: tuple(map(tuple, x.tolist())),
    "list of rows": list,
    "table": pd.DataFrame,
    "nothing masked": np.ma.asarray,
    "JAX": lambda x: _in_jax(x),
}


def _read_only(x: np.ndarray) -> np.ndarray:
    x.flags.writeable = False
    return x


def _in_jax(x: np.ndarray) -> jax.Array:
    """As users do it, which rounds or wraps before we are asked."""
    with np.errstate(over="ignore", under="ignore"):
        return jnp.asarray(x.astype(float) if x.dtype == Wide else x)


@dataclass(frozen=True)
class Drawn:
    """Data, and what they are.

    Attributes:
        array: (N, n), of a NumPy dtype.
        container: what they come in.
    """

    array: np.ndarray
    container: str

    def __repr__(self) -> str:
        return f"Drawn({self.array!r}, {self.container!r})"

    def given(self, rows: slice = slice(None)) -> Any:
        return CONTAINERS[self.container](self.array[rows])

    @property
    def exact(self) -> np.ndarray:
        """The numbers that a reader of the container gets."""
        x = self.array
        if self.container == "JAX":
            x = np.asarray(_in_jax(x))
        if x.dtype == np.longdouble and self.container in ("list", "tuple"):
            x = np.asarray(x.tolist())  # Python's floats
        return x.astype(Wide)

    @property
    def finite(self) -> np.ndarray:
        """Something to make a model of, also where the data will be refused."""
        return np.where(np.isfinite(self.exact), self.exact, 0)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the floats in which they are computed with, the README's rule."""
        came = np.asarray(self.given()).dtype
        narrow = came.kind == "f" and came.itemsize <= 4
        return np.dtype("f4") if narrow else np.dtype(jnp.result_type(float))

    @property
    def eps(self) -> float:
        return float(np.finfo(self.dtype).eps)

    @property
    def mean(self) -> np.ndarray:
        x = self.finite
        return x[0] + (x - x[0]).mean(axis=0)

    @property
    def cov(self) -> np.ndarray:
        z = self.finite - self.mean
        return z.T @ z / len(z)

    @property
    def variance(self) -> float:
        return float(np.diag(self.cov).max())

    def refusals(self, *, varying: bool) -> list[str]:
        """Why a function may refuse them, as a part of the message; `varying` wants a spread."""
        x, limits = self.exact, np.finfo(self.dtype)
        reasons = []
        if not np.isfinite(x).all():
            return ["NaN or Inf"]
        if np.abs(x).max() > limits.max:
            reasons.append("the largest")
        if varying and (x == x[0]).all():
            reasons.append("constant data")
        elif varying:
            least, most = float(limits.tiny) / self.eps, float(limits.max) * self.eps
            # a factor of two on both sides is left to rounding
            if not 2 * least < self.variance < most / 2:
                reasons.append("largest variance")
        return reasons


@st.composite
def as_they_come(draw: st.DrawFn) -> Drawn:
    """Real data of any kind."""
    N = draw(st.sampled_from(SIZES))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    rank = draw(st.integers(1, n))
    z = (rng.normal(size=(N, rank)) @ rng.normal(size=(rank, n))).astype(Wide)
    if draw(st.booleans()):  # repeated rows; of two, then all data are constant
        z[N // 2 :] = z[: N - N // 2]
    if draw(st.booleans()):
        z[:, draw(st.integers(0, n - 1))] = rng.normal()
    z += Wide(draw(st.sampled_from([0, 0, 1, 1e3, 1e6, 1e9]))) * rng.normal(size=n)
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    if dtype.kind == "f":
        z *= Wide(10) ** draw(st.one_of(st.just(0), st.integers(-21, 12)))
        with np.errstate(over="ignore", under="ignore"):
            x = z.astype(dtype)
    elif dtype.kind == "b":
        x = z > np.median(z)
    else:  # in units in which they fill some of the type's range
        limits = np.iinfo(dtype)
        scale = Wide(limits.max) * Wide(draw(st.sampled_from([1e-15, 1e-9, 1e-3, 0.9])))
        z = np.rint(z / np.abs(z).max() * max(scale, Wide(20)))
        x = np.clip(z, limits.min, limits.max).astype(dtype)
    return Drawn(x, draw(st.sampled_from(sorted(CONTAINERS))))


def attempt(drawn: Drawn, name: str, varying: bool, function: Callable[[], Any]) -> Any:
    """What the function returns; None if it refuses, for a reason that the data give."""
    reasons = drawn.refusals(varying=varying)
    try:
        result = function()
    except ValueError as error:
        message = str(error)
        assert message.startswith(name), message
        assert any(reason in message for reason in reasons), (message, reasons)
        return None
    assert not {"NaN or Inf", "constant data"} & set(reasons), reasons
    for leaf in jax.tree.leaves(result):
        assert np.isfinite(leaf).all(), result
    return result


def assert_near(got: Any, exact: Any, error: Any) -> None:
    assert (np.abs(np.asarray(got).astype(Wide) - exact) <= error).all(), (got, exact, error)


# N products, each of two numbers that were rounded once when they came and twice when they were
# centred; and the sum: the errors in units of the largest variance
def _cov_error(d: Drawn) -> float:
    return (len(d.array) + 8) * d.eps * d.variance


def _assert_moments(d: Drawn, found: mom.Moments) -> None:
    assert found.cov.dtype == d.dtype
    assert_near(found.cov, d.cov, _cov_error(d))
    spread = np.sqrt(d.variance)
    assert_near(found.mean, d.mean, 2 * d.eps * (np.abs(d.mean) + len(d.array) * spread))
    assert found.count == len(d.array)


def from_data(d: Drawn) -> None:
    found = attempt(d, "x:", True, lambda: mom.from_data(d.given()))
    if found is not None:
        _assert_moments(d, found)


def from_chunks(d: Drawn) -> None:
    cut = len(d.array) // 2
    pieces = [d.given(slice(cut)), d.given(slice(cut, None))]
    call = lambda: mom.from_chunks(pieces, "values", "values")  # noqa: E731
    found = attempt(d, "values:", True, call)
    if found is not None:
        _assert_moments(d, found)


def _spectrum(d: Drawn) -> np.ndarray:
    """Eigenvalues of the exact covariance, by NumPy in float64 and in the unit of the largest."""
    return np.linalg.eigvalsh((d.cov / d.variance).astype(float))[::-1] * d.variance


def _spectrum_error(d: Drawn) -> float:
    # Weyl: no eigenvalue moves by more than the norm of the error, at most n times its largest
    # entry; the same again for the factorisation, here and in NumPy
    return 2 * n * _cov_error(d) + 10 * n * float(np.finfo(float).eps) * d.variance


def thin_spectrum(d: Drawn) -> None:
    found = attempt(d, "x:", True, lambda: mom.thin_spectrum(d.given()))
    if found is not None:
        m = min(len(d.array), n)
        assert found.eigenvalues.dtype == d.dtype
        assert_near(found.eigenvalues, _spectrum(d)[:m], _spectrum_error(d))


W0 = np.array([1.0, -0.5, 0.25])


@dataclass(frozen=True)
class Model:
    """One latent, in the unit of the data: for that W, σ², V, D and μ are exact in long double."""

    drawn: Drawn

    @property
    def unit(self) -> float:
        limits = np.finfo(self.drawn.dtype)
        least = float(limits.tiny) / self.drawn.eps
        v = self.drawn.variance
        return float(np.exp2(np.round(np.log2(np.sqrt(v))))) if v > least else 1.0

    @property
    def mean(self) -> jax.Array:
        with np.errstate(over="ignore", under="ignore"):
            return jnp.asarray(self.drawn.mean.astype(self.drawn.dtype))

    @property
    def ppca(self) -> ppca.PPCA:
        dtype, u = self.drawn.dtype, self.unit
        return ppca.PPCA(
            jnp.asarray(u * W0[:, None], dtype), jnp.asarray(u * u / 4, dtype), self.mean
        )

    @property
    def linear(self) -> linear.LinearVAEParams:
        dtype, u = self.drawn.dtype, self.unit
        return linear.LinearVAEParams(
            jnp.asarray(u * W0[:, None], dtype),
            jnp.asarray(W0[None] / u / 2, dtype),
            jnp.asarray([-0.5], dtype),
            jnp.asarray(2 * np.log(u / 2), dtype),
        )

    @property
    def moments(self) -> mom.Moments:
        one = jnp.ones(n, self.drawn.dtype)
        return mom.Moments(self.mean, one, one[0])

    @property
    def residual(self) -> np.ndarray:
        """(x − μ)/unit, μ as the model has it."""
        return (self.drawn.exact - np.asarray(self.mean).astype(Wide)) / Wide(self.unit)

    @property
    def log_sigma2(self) -> Any:
        return np.asarray(self.linear.log_sigma2).astype(Wide)

    def error(self, size: Any) -> Any:
        """Sums of some dozen terms of this size; log σ² is one of them."""
        return 64 * self.drawn.eps * (size + n * abs(float(self.log_sigma2)) + 8)

    @property
    def size(self) -> np.ndarray:
        """(N,), of the squares in the objective."""
        return 8 * (self.residual**2).sum(axis=1)


def posterior(d: Drawn) -> None:
    model = Model(d)
    found = attempt(d, "x:", False, lambda: ppca.posterior(model.ppca, d.given()).mean)
    if found is not None:
        exact = model.residual @ W0 / (W0 @ W0 + 0.25)
        assert_near(found[:, 0], exact, model.error(np.abs(model.residual).max(axis=1)))


def _score(model: Model) -> np.ndarray:
    r = model.residual
    square = 4 * (r**2).sum(axis=1) - 16 * (r @ W0) ** 2 / (1 + 4 * (W0 @ W0))
    log_det = n * model.log_sigma2 + np.log1p(4 * Wide(W0 @ W0))
    return -0.5 * (n * np.log(2 * Wide(np.pi)) + log_det + square)


def score_per_datum(d: Drawn) -> None:
    model = Model(d)
    found = attempt(d, "x:", False, lambda: ppca.score_per_datum(model.ppca, d.given()))
    if found is not None:
        assert_near(found, _score(model), model.error(model.size))


def score(d: Drawn) -> None:
    model = Model(d)
    found = attempt(d, "x:", False, lambda: ppca.score(model.ppca, d.given()))
    if found is not None:
        assert_near(found, _score(model).mean(), model.error(model.size.max()))


def _elbo(model: Model, noise: Any = None) -> tuple[np.ndarray, np.ndarray]:
    """Reconstruction and KL (N,); of the noise given, or of all."""
    r, D = model.residual, np.exp(Wide(-0.5))
    m = r @ W0 / 2
    z = m if noise is None else m + np.sqrt(D) * noise
    square = ((r - z[:, None] * W0) ** 2).sum(axis=1)
    if noise is None:
        square = square + D * Wide(W0 @ W0)
    reconstruction = -0.5 * (n * np.log(2 * Wide(np.pi)) + n * model.log_sigma2 + 4 * square)
    return reconstruction, 0.5 * (D + m**2 - 1 + Wide(0.5))


def elbo_terms_per_datum(d: Drawn) -> None:
    model = Model(d)
    call = lambda: linear.elbo_terms_per_datum(model.linear, model.moments, d.given())  # noqa: E731
    if (found := attempt(d, "x:", False, call)) is not None:
        reconstruction, kl = _elbo(model)
        assert_near(found.reconstruction, reconstruction, model.error(model.size))
        assert_near(found.kl[:, 0], kl, model.error(model.size))


def elbo_stochastic(d: Drawn) -> None:
    model = Model(d)
    call = lambda: linear.elbo_stochastic(model.linear, model.moments, d.given(), KEY)  # noqa: E731
    if (found := attempt(d, "x:", False, call)) is not None:
        noise = np.asarray(jax.random.normal(KEY, (len(d.array), 1), d.dtype)).astype(Wide)[:, 0]
        reconstruction, kl = _elbo(model, noise)
        error = model.error(model.size + 8 * noise**2)
        assert_near(found, reconstruction - kl, error)


def linear_score_per_datum(d: Drawn) -> None:
    model = Model(d)
    call = lambda: linear.score_per_datum(model.linear, model.mean, d.given(), 2)  # noqa: E731
    if (found := attempt(d, "x:", False, call)) is not None:
        reconstruction, kl = _elbo(model)
        assert_near(found, reconstruction - 2 * kl, model.error(model.size))


def linear_score(d: Drawn) -> None:
    model = Model(d)
    call = lambda: linear.score(model.linear, model.mean, d.given())  # noqa: E731
    if (found := attempt(d, "x:", False, call)) is not None:
        reconstruction, kl = _elbo(model)
        assert_near(found, (reconstruction - kl).mean(), model.error(model.size.max()))


def evaluate(d: Drawn) -> None:
    model = Model(d)
    call = lambda: evaluation.evaluate(  # noqa: E731
        linear.Model(n, 1), model.linear, d.given(), d.mean, KEY
    )
    # NaN among the values makes NaN of the means, as documented, rather than an error
    if not np.isfinite(d.exact).all():
        return
    if (found := attempt(d, "values:", False, call)) is not None:
        r = (d.exact - d.mean) / Wide(model.unit)
        kl = 0.5 * (np.exp(Wide(-0.5)) - 0.5 + (r @ W0 / 2) ** 2)
        # d.mean is in long double, and rounds in JAX where the values come from there
        lost = d.eps * float(np.abs(d.mean).max() / model.unit) if d.container == "JAX" else 0
        spread = np.abs(r).max() + lost
        assert_near(found.kl[0], kl.mean(), model.error(model.size.max()) + 4 * lost * spread)
        assert found.count == len(d.array)


def totals(d: Drawn) -> None:
    """Of two pieces, merged: as of all at once."""
    if not np.isfinite(d.exact).all():
        return
    model = Model(d)
    cut = len(d.array) // 2

    def merged() -> Any:
        a, b = (
            evaluation.totals(
                *(linear.Model(n, 1), model.linear, d.given(rows), model.mean, KEY), first=first
            )
            for rows, first in ((slice(cut), 0), (slice(cut, None), cut))
        )
        return evaluation.merge(a, b)

    if (found := attempt(d, "values:", False, merged)) is not None:
        _, kl = _elbo(model)
        assert_near(found.mean.kl[0], kl.mean(), model.error(model.size.max()))


def prepare(d: Drawn) -> None:
    """With what `data_scale` and `centred` read off it, and with windows on it."""
    given = d.given()
    reasons = d.refusals(varying=True)
    v = d.variance if np.isfinite(d.exact).all() else np.nan
    f4 = np.finfo(np.float32)
    least, most = float(f4.tiny) / float(f4.eps), float(f4.max) * float(f4.eps)
    try:
        data = network_task.prepare(given)
    except ValueError as error:
        message = str(error)
        assert message.startswith("values:"), message
        in_int32 = np.abs(d.exact).max() < 2**31
        allowed = any(reason in message for reason in reasons)
        allowed |= "largest variance" in message and not 2 * least < v < most / 2
        allowed |= "integers from" in message and not in_int32
        assert allowed, message
        return
    assert not {"NaN or Inf", "constant data"} & set(reasons)
    eps = float(f4.eps)
    error = _spectrum_error(d) + eps * d.variance
    assert_near(data.eigenvalues, _spectrum(d), error)
    scale = float(np.sqrt(np.trace(d.cov) / n))
    assert abs(network_task.data_scale(data) / scale - 1) < 0.05 + n * error / d.variance
    assert_near(data.mean, d.mean, eps * np.abs(d.mean) + len(d.array) * d.eps * np.sqrt(v))
    seen = network_task.centred(data, None, KEY, 100)
    z = d.exact - d.mean
    # integers stay what they are, with the mean in float32; that of the others is in float64
    lost = np.abs(d.mean).max() * (float(np.finfo(float).eps) if data.centred else 2 * eps)
    assert_near(seen, z, 4 * d.eps * np.abs(z).max() + lost)
    if data.centred:
        assert_near(data.values, z, 4 * d.eps * np.abs(z).max() + lost)
        in_windows = network_task.prepare(Windows(np.asarray(given), 100, 0))
        np.testing.assert_array_equal(in_windows.values.window(0), data.values)
        np.testing.assert_array_equal(network_task.centred(in_windows, None, KEY, 100), seen)


def problem(d: Drawn) -> None:
    """Refused also where x − μ would be rounding."""
    if d.refusals(varying=True):
        return
    moments = mom.from_data(d.array) if d.container != "JAX" else mom.from_data(d.given())
    far = float(np.abs(d.mean).max()) * float(np.finfo(moments.mean.dtype).eps)
    near = far / np.sqrt(float(d.variance))
    if near > 0.9e-3:
        if near > 1.1e-3:
            with pytest.raises(ValueError, match=r"^x: got a mean of"):
                linear_task.problem(moments, d.given())
        return
    found = linear_task.problem(moments, d.given())
    seen = np.asarray(found.x).astype(Wide) - np.asarray(moments.mean).astype(Wide)
    eps = float(np.finfo(moments.mean.dtype).eps)
    # as the refusal promises: three digits of the standard deviation, for x and for μ
    size = np.abs(d.exact).max() + np.abs(d.mean).max()
    assert_near(seen, d.exact - d.mean, 2 * eps * size + len(d.array) * eps * np.sqrt(d.variance))


def _epsilon(d: Drawn) -> np.ndarray:
    with np.errstate(over="ignore", under="ignore"):
        return np.quantile(d.exact.astype(float), [0.2, 0.5, 0.8]) + np.array([0.0, 0.3, 0.0])


def _below(d: Drawn, epsilon: np.ndarray, sign: int) -> np.ndarray:
    """Counts where numbers that are ε up to rounding are taken to be (1) or not to be (-1)."""
    x, eps = d.exact, epsilon[:, None, None].astype(Wide)
    # a float32 too small for its exponent is zero to XLA
    rounding = 2 * d.eps * (np.abs(x) + np.abs(eps)) + float(np.finfo(d.dtype).tiny)
    return (x < eps + sign * rounding).sum(axis=1)


def count_below(d: Drawn) -> None:
    if not np.isfinite(d.exact).all():
        return
    epsilon = _epsilon(d)
    call = lambda: collapse.count_below(d.given(), epsilon)  # noqa: E731
    if (found := attempt(d, "kl:", False, call)) is not None:
        found = np.asarray(found)
        assert (_below(d, epsilon, -1) <= found).all()
        assert (found <= _below(d, epsilon, 1)).all()


def fraction_below(d: Drawn) -> None:
    if not np.isfinite(d.exact).all():
        return
    epsilon, N = _epsilon(d), len(d.array)
    call = lambda: collapse.fraction_below(d.given(), epsilon)  # noqa: E731
    if (found := attempt(d, "kl:", False, call)) is not None:
        found = np.asarray(found)
        assert (_below(d, epsilon, -1) / N - d.eps <= found).all()
        assert (found <= _below(d, epsilon, 1) / N + d.eps).all()


# what is drawn goes into each of these
NET: dict[str, Callable[[Drawn], None]] = {
    "moments.from_data": from_data,
    "moments.from_chunks": from_chunks,
    "moments.thin_spectrum": thin_spectrum,
    "ppca.posterior": posterior,
    "ppca.score_per_datum": score_per_datum,
    "ppca.score": score,
    "linear.elbo_terms_per_datum": elbo_terms_per_datum,
    "linear.elbo_stochastic": elbo_stochastic,
    "linear.score_per_datum": linear_score_per_datum,
    "linear.score": linear_score,
    "evaluation.evaluate": evaluate,
    "evaluation.totals": totals,
    "network_task.prepare": prepare,
    "linear_task.problem": problem,
    "collapse.count_below": count_below,
    "collapse.fraction_below": fraction_below,
}

# these say so of data whose variance is beyond their dtype
HAVE_A_RANGE = [name for name in NET if name.startswith(("moments", "network_task", "collapse"))]
# other tests, and why not here
ELSEWHERE = {
    "data.preprocessing.dequantise": "pixels, below",
    "data.preprocessing.pixel_constant": "pixels, below",
    "data.preprocessing.logit": "from 0 to 1, below",
    "data.preprocessing.log_jacobian": "from 0 to 1, below",
    "data.preprocessing.sigmoid": "below",
    "network_task.data_scale": "in `prepare`",
    "network_task.centred": "in `prepare`",
}
# these take what `prepare` or `problem` made, or are compiled with arrays inside functions above
INNER = ("vae", "sources", "training", "sweeps", "networks", "tables")
DATA_NAMES = {"x", "y", "values", "data", "chunks", "pixels", "kl", "images"}


def test_no_function_that_takes_data_is_forgotten():
    found = set()
    for info in pkgutil.walk_packages(linvae_jax.__path__, "linvae_jax."):
        module = importlib.import_module(info.name)
        short = info.name.removeprefix("linvae_jax.")
        if short in INNER or short.startswith("_"):
            continue
        for name, member in vars(module).items():
            if name.startswith("_") or getattr(member, "__module__", None) != info.name:
                continue
            if not inspect.isroutine(inspect.unwrap(member)):
                continue
            if DATA_NAMES & set(inspect.signature(member).parameters):
                found.add(f"{short}.{name}")
    assert found == set(NET) | set(ELSEWHERE)


@pytest.mark.slow
@pytest.mark.parametrize("x64", [True, False])
@pytest.mark.parametrize("name", NET)
@settings(max_examples=25)
@given(drawn=as_they_come())
def test_right_or_refused(name, x64, drawn):
    with jax.enable_x64(x64):
        # sums of squares of 64-bit integers are beyond float32; the README says from where
        most = float(np.finfo(drawn.dtype).max) * drawn.eps
        assume(name in HAVE_A_RANGE or drawn.variance < most)
        NET[name](drawn)


@pytest.mark.parametrize("container", sorted(CONTAINERS))
def test_pixels_in_any_container(container):
    p = np.array([[0, 128, 255], [3, 7, 250]])
    for dtype in ("uint8", "int16", "int64", "uint64"):
        came = CONTAINERS[container](p.astype(dtype))
        x = preprocessing.dequantise(came, KEY)
        np.testing.assert_array_equal(np.floor(256 * x), p)
        expected = preprocessing.pixel_constant(p.astype("uint8"), 0.01)
        assert preprocessing.pixel_constant(came, 0.01) == expected


@pytest.mark.parametrize("container", sorted(CONTAINERS))
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "longdouble"])
def test_numbers_from_0_to_1_in_any_container(container, dtype):
    array = np.array([[0.0, 0.25, 1.0], [0.5, 0.75, 0.125]], dtype)
    x, a = array.astype(Wide), Wide(0.01)
    came = CONTAINERS[container](array)
    s, t = a + (1 - 2 * a) * x, a + (1 - 2 * a) * (1 - x)
    # α in float32 is off by half an eps of it, and log s by as much
    error = 64 * np.finfo(np.float32 if array.itemsize <= 4 else float).eps
    y = preprocessing.logit(came, 0.01)
    assert_near(y, np.log(s) - np.log(t), error)
    jacobian = (np.log(1 - 2 * a) - np.log(s) - np.log(t)).sum(axis=1)
    assert_near(preprocessing.log_jacobian(came, 0.01), jacobian, error)
    back = preprocessing.sigmoid(CONTAINERS[container](np.asarray(y)), 0.01)
    assert_near(back, x, error)


class _NoArray:
    """As a table that can't be one array."""

    def __array__(self, *_: object, **__: object) -> np.ndarray:
        raise TypeError("no numbers here")


NOT_NUMBERS: dict[str, Callable[[], Any]] = {
    "sparse": lambda: sparse.csr_array(np.eye(3)),
    "sparse of JAX": lambda: jsparse.BCOO.fromdense(jnp.eye(3)),
    "masked": lambda: np.ma.masked_less(np.eye(3), 0.5),
    "text": lambda: [["a", "b", "c"]] * 3,
    "bytes": lambda: np.array([[b"1", b"2", b"3"]] * 3),
    "objects": lambda: np.array([[{}, 1, 2]] * 3),
    "complex": lambda: np.eye(3) * 1j,
    "dates": lambda: np.full((3, 3), np.datetime64("2026-01-01")),
    "durations": lambda: np.full((3, 3), np.timedelta64(1, "s")),
    "keys": lambda: jax.random.split(KEY, 9).reshape(3, 3),
    "ragged": lambda: [[1.0, 2.0, 3.0], [1.0]],
    "beyond 64 bits": lambda: [[2**70, 1, 2]] * 3,
    "nothing": lambda: None,
    "a generator": lambda: (row for row in np.eye(3)),
    "no array": _NoArray,
    "a record": lambda: np.zeros(3, [("a", float), ("b", int)]),
}
MODEL = ppca.PPCA(jnp.ones((n, 1)), jnp.ones(()), jnp.zeros(n))
PARAMS = linear.with_optimal_encoder(jnp.ones((n, 1)), 1.0)
TAKES: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "moments.from_data": ("x", mom.from_data),
    "moments.from_chunks": (r"chunks\[0\]", lambda x: mom.from_chunks([x])),
    "moments.thin_spectrum": ("x", mom.thin_spectrum),
    "moments.from_covariance": ("cov", mom.from_covariance),
    "ppca.posterior": ("x", lambda x: ppca.posterior(MODEL, x)),
    "ppca.score": ("x", lambda x: ppca.score(MODEL, x)),
    "linear.score": ("x", lambda x: linear.score(PARAMS, jnp.zeros(n), x)),
    "mean of linear.score": ("mean", lambda x: linear.score(PARAMS, x, jnp.ones((2, n)))),
    "evaluation.evaluate": (
        "values",
        lambda x: evaluation.evaluate(linear.Model(n, 1), PARAMS, x, jnp.zeros(n), KEY),
    ),
    "network_task.prepare": ("values", network_task.prepare),
    "collapse.count_below": ("kl", lambda x: collapse.count_below(x, 0.1)),
    "epsilon": ("epsilon", lambda x: collapse.fraction_below(jnp.ones((2, n)), x)),
    "mutual information": ("mean", lambda x: information.mutual_information(x, jnp.ones(3), x)),
    "preprocessing.dequantise": ("pixels", lambda x: preprocessing.dequantise(x, KEY)),
    "preprocessing.sigmoid": ("y", lambda x: preprocessing.sigmoid(x, 0.1)),
    "preprocessing.logit": ("x", lambda x: preprocessing.logit(x, 0.1)),
    "synthetic.gaussian": ("eigenvalues", lambda x: synthetic.gaussian(KEY, x, 5)),
    "Windows": ("values", lambda x: Windows(x, 2, 0)),
}


@pytest.mark.parametrize("what", NOT_NUMBERS)
def test_what_is_no_array_of_real_numbers_is_refused_by_name(what):
    for name, function in TAKES.values():
        with pytest.raises(ValueError, match=f"^{name}: got "):
            function(NOT_NUMBERS[what]())


@pytest.mark.parametrize("key", [0, np.int64(3), None, "seed", jax.random.split(KEY, 2)])
def test_what_is_no_key_is_refused(key):
    pixels = np.zeros((2, n), "uint8")
    for function in (
        lambda: linear.init(key, n, 1),
        lambda: linear.elbo_stochastic(PARAMS, mom.from_data(np.eye(n)), np.eye(n), key),
        lambda: ppca.sample(MODEL, key, 2),
        lambda: evaluation.evaluate(linear.Model(n, 1), PARAMS, np.eye(n), jnp.zeros(n), key),
        lambda: network_task.prepare(pixels, preprocessing.Logit(0.1), key),
        lambda: network_task.centred(network_task.prepare(np.eye(n)), None, key, 2),
        lambda: preprocessing.dequantise(pixels, key),
        lambda: synthetic.gaussian(key, [2.0, 1.0], 5),
    ):
        with pytest.raises(ValueError, match=r"^key: got .*(jax\.random\.key|a key for)"):
            function()


def test_the_older_kind_of_key_is_a_key():
    assert linear.init(jax.random.PRNGKey(0), n, 1).W.shape == (n, 1)


def test_raw_data_where_they_should_be_prepared():
    x = np.eye(n)
    for function, message in (
        (lambda: linear.elbo(PARAMS, x), r"^moments: got ndarray.*moments\.from_data"),
        (lambda: ppca.mle(x, 1), r"^moments: got ndarray"),
        (lambda: linear_task.problem(x), r"^moments: got ndarray"),
        (lambda: network_task.data_scale(x), r"^data: got ndarray.*network_task\.prepare"),
        (lambda: network_task.centred(x, None, KEY, 2), r"^data: got ndarray"),
        (
            lambda: linear_task.LinearTask(1).check(x, training.Hyperparameters()),
            r"^data: got ndarray.*linear_task\.problem",
        ),
        (
            lambda: network_task.NetworkTask(linear.Model(n, 1)).check(
                x, training.Hyperparameters()
            ),
            r"^data: got ndarray",
        ),
        (lambda: linear.elbo(x, mom.from_data(x)), r"^params: got ndarray"),
    ):
        with pytest.raises(ValueError, match=message):
            function()


@pytest.mark.parametrize("sigma2", [2**31, 3_000_000_000, np.int64(2**40), 2**70])
def test_large_integers_as_noise(sigma2):
    with jax.enable_x64(False):
        m = mom.from_covariance(np.diag([4e9, 2e9, 1e9]))
        found = ppca.log_likelihood(jnp.ones((3, 1)), sigma2, m)
        np.testing.assert_allclose(
            found, ppca.log_likelihood(jnp.ones((3, 1)), float(sigma2), m), rtol=1e-6
        )
        assert jnp.isfinite(found)
        elbo = linear.elbo(linear.with_optimal_encoder(jnp.ones((3, 1)), sigma2), m, 3_000_000_000)
        assert jnp.isfinite(elbo)
        with pytest.raises(ValueError, match="sigma2: got 1e-60, expected a number from"):
            ppca.log_likelihood(jnp.ones((3, 1)), 1e-60, m)


@pytest.mark.slow
def test_networks_see_the_same_data_wherever_they_are():
    """Coordinates of 5,000,000 ± 0.5 m without x64: as those of ± 0.5 m."""
    x = 0.5 * np.random.default_rng(0).standard_normal((200, n)) * [3, 2, 1]
    hyper = training.Hyperparameters()
    with jax.enable_x64(False):
        model = ppca.mle(mom.from_data(x), 1)
        params = linear.with_optimal_encoder(model.W, model.sigma2)
        task = network_task.NetworkTask(linear.Model(n, 1), batch_size=8)
        near, far = network_task.prepare(x), network_task.prepare(x + 5e6)
        windows = network_task.prepare(Windows(x + 5e6, 50, 0))
        a, b = (
            task.finish(data, params, hyper, task.totals(data, 0, params, KEY))
            for data in (near, far)
        )
        for name in a:
            np.testing.assert_allclose(a[name], b[name], rtol=1e-5, atol=1e-5, err_msg=name)
        slope = [task.gradient(data, params, 1.0, KEY) for data in (near, far)]
        for u, v in zip(*map(jax.tree.leaves, slope), strict=True):
            np.testing.assert_allclose(u, v, rtol=1e-4, atol=1e-4)
        # new data too, with the mean that was kept
        scores = [
            evaluation.evaluate(task.model, params, x[:50] + shift, data.mean, KEY).elbo
            for data, shift in ((near, 0), (far, 5e6), (windows, 5e6))
        ]
        np.testing.assert_allclose(scores, scores[0], rtol=1e-5)
        assert windows.values.window(0).dtype == np.float32
        assert np.abs(windows.values.window(0)).max() < 10
