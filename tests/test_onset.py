"""The onset of total collapse against Hessians of the expected β-ELBO, in all weights.

Nothing here knows the formula: expectations over z are Gauss–Hermite sums, and the Hessian is
automatic differentiation's. Second derivatives at total collapse are quadratic in z's noise, for
which three nodes would be exact; there are five.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from landscape.curvature import collapsed_latent, onset
from landscape.testing import laws, strategies
from linvae_jax import moments as mom
from tests.tolerances import EXACT, FACTORED

SIGMA2 = 0.7
ROWS, n = 24, 3
# So near β_c the eigenvalue that changes its sign is 6e-5 of the largest or more, in units of A and
# S (300 draws). Those that are zero are 4e-16 of it or less, and `laws` draws the line at 1e-10
NEAR = 1e-3

_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(5)


def _noise(k):
    """Nodes (q, k) and weights (q,) of k independent standard normal numbers."""
    nodes = np.stack(np.meshgrid(*[_NODES] * k), -1).reshape(-1, k)
    weights = np.prod(np.stack(np.meshgrid(*[_WEIGHTS] * k), -1).reshape(-1, k), 1)
    return nodes, weights / weights.sum()


def _reconstruction(family, x, a):
    """Minus log p(x | a), up to a function of x, summed over columns."""
    if family == "gaussian":  # its decoder gives the mean here, no natural parameter
        return ((x - a) ** 2 / (2 * SIGMA2)).sum(-1)
    return ((jax.nn.softplus(a) if family == "bernoulli" else jnp.exp(a)) - x * a).sum(-1)


def _fitted(family, x):
    """Give the decoder's bias at which the family has the data's mean."""
    mean = x.mean(0)
    return {"bernoulli": np.log, "poisson": np.log, "gaussian": np.positive}[family](
        mean / (1 - mean) if family == "bernoulli" else mean
    )


def _objective(family, decode, posterior_mean, log_d, x, beta):
    """The β-ELBO of one datum, nats, averaged over the data."""
    nodes, weights = _noise(posterior_mean.shape[1])
    z = posterior_mean[:, None] + jnp.exp(log_d / 2)[:, None] * nodes
    error = _reconstruction(family, x[:, None], decode(z)) @ weights
    kl = 0.5 * (posterior_mean**2 + jnp.exp(log_d) - 1 - log_d).sum(-1)
    return -(error + beta * kl).mean()


def _linear(family, p, x, beta):
    m = (x - x.mean(0)) @ p["V"].T
    log_d = jnp.broadcast_to(p["log_d"], m.shape)
    return _objective(family, lambda z: p["b"] + z @ p["W"].T, m, log_d, x, beta)


def _network(family, p, fixed, x, beta):
    """A hidden layer in the decoder, and heads of a latent's mean and log variance on features."""
    hidden = lambda z: jnp.tanh(fixed["c"] + z @ p["W"].T)  # noqa: E731
    decode = lambda z: fixed["b"] + hidden(z) @ fixed["U"].T  # noqa: E731
    h = fixed["h"]
    return _objective(family, decode, h @ p["theta"], h @ p["eta"], x, beta)


# the same objects for all examples, so that each is compiled once
LINEAR = {name: partial(_linear, name) for name in ("bernoulli", "poisson", "gaussian")}
NETWORK = {name: partial(_network, name) for name in ("bernoulli", "poisson")}
FAMILY = {"binary": "bernoulli", "grey": "bernoulli", "counts": "poisson", "real": "gaussian"}


@st.composite
def data(draw, kinds=tuple(FAMILY)):
    """Draw data (ROWS, n) of a kind, correlated through one factor; no column is constant."""
    kind = draw(st.sampled_from(kinds))
    rng = np.random.default_rng(draw(strategies.seeds))
    factor = draw(st.floats(0, 3)) * rng.normal(size=(ROWS, 1)) * rng.normal(size=n)
    a = factor + 0.5 * rng.normal(size=(ROWS, n)) + rng.normal(size=n)
    probability = 1 / (1 + np.exp(-a))
    x = {
        "binary": (rng.random((ROWS, n)) < probability).astype(float),
        "grey": probability,
        "counts": rng.poisson(np.exp(np.clip(a, -3, 3))).astype(float),
        "real": a,
    }[kind]
    if kind in ("binary", "counts"):
        x[:2] = [[0], [1]]
    if draw(st.booleans()):
        x[:, 1] = x[:, 0]  # S is singular
    return kind, x


def _nu(kind, x):
    family = FAMILY[kind]
    return np.asarray(
        onset.eigenvalues(mom.from_data(x), family, SIGMA2 if family == "gaussian" else None)
    )


def _collapsed(family, x, k):
    zeros = {"W": np.zeros((n, k)), "V": np.zeros((k, n)), "log_d": np.zeros(k)}
    return jax.tree.map(jnp.asarray, zeros | {"b": _fitted(family, x)})


def _weights(nu):
    """KL weights just below and above the onset, and between any two ν."""
    between = (nu[:-1] + nu[1:])[nu[1:] < (1 - 4 * NEAR) * nu[:-1]] / 2
    return [(1 - NEAR) * nu[0], (1 + NEAR) * nu[0], *between]


# uncorrelated columns: all ν tie, at 1
FACTORIAL = "binary", np.tile(np.indices((2,) * n).reshape(n, -1).T.astype(float), (3, 1))


@pytest.mark.slow
@pytest.mark.parametrize("k", [1, 2])
@given(data())
@example(FACTORIAL)
def test_index_at_total_collapse_is_that_of_the_dense_hessian(k, drawn):
    kind, x = drawn
    nu, objective = _nu(kind, x), LINEAR[FAMILY[kind]]
    point = _collapsed(FAMILY[kind], x, k)
    flat = k * (n - np.linalg.matrix_rank(x - x.mean(0)))
    for i, beta in enumerate(_weights(nu)):
        index = int(onset.ways_out(nu, k, beta))
        assert (index == 0) == (i == 1)
        laws.assert_stationary(objective, point, x, beta)
        laws.assert_index(objective, point, x, beta, index=index, nullity=flat)


@pytest.mark.slow
@pytest.mark.parametrize("features", ["linear", "tanh"])
@given(data(("binary", "grey", "counts")), strategies.seeds)
def test_no_network_leaves_total_collapse_at_a_larger_weight(features, drawn, seed):
    """One with linear features and a decoder that is onto leaves in just as many ways."""
    kind, x = drawn
    family, nu, rng = FAMILY[kind], _nu(kind, x), np.random.default_rng(seed)
    U, c = rng.normal(size=(n, 4)), rng.normal(size=4)
    assume(np.linalg.svd(U / np.cosh(c) ** 2)[1][-1] > 0.1)  # else onto, but not to rounding
    hidden = x if features == "linear" else np.tanh(x @ rng.normal(size=(n, 2)))
    h = np.concatenate([hidden - hidden.mean(0), np.ones((ROWS, 1))], 1)
    fixed = {"U": U, "c": c, "b": _fitted(family, x) - U @ np.tanh(c), "h": h}
    zeros = {"W": (4, 1), "theta": (h.shape[1], 1), "eta": (h.shape[1], 1)}
    point = {name: jnp.zeros(shape) for name, shape in zeros.items()}
    # what linear regression on the features explains
    explained = h @ np.linalg.lstsq(h, x - x.mean(0), rcond=None)[0]
    for beta in _weights(nu):
        most = int(onset.ways_out(nu, 1, beta))
        laws.assert_stationary(NETWORK[family], point, fixed, x, beta)
        if features == "linear":
            laws.assert_index(NETWORK[family], point, fixed, x, beta, index=most)
        else:
            mean = x.mean(0)
            root = (mean * (1 - mean) if family == "bernoulli" else mean) ** -0.5
            own = np.linalg.eigvalsh(explained.T @ explained / ROWS * root * root[:, None])
            assume(abs(own / beta - 1).min() > NEAR / 2)
            index = int((own > beta).sum())
            assert index <= most
            laws.assert_index(NETWORK[family], point, fixed, x, beta, index=index)


@given(data())
def test_blocks_of_a_collapsed_latent_have_the_same_onset_and_ways_out(drawn):
    kind, x = drawn
    nu, S, mean = _nu(kind, x), np.cov(x.T, bias=True), x.mean(0)
    noise = {"bernoulli": mean * (1 - mean), "poisson": mean, "gaussian": SIGMA2 * np.ones(n)}
    blocks = collapsed_latent.Blocks(*map(jnp.asarray, (np.diag(noise[FAMILY[kind]]), S, S)))
    np.testing.assert_allclose(blocks.critical_sigma2(), nu[0], rtol=FACTORED)
    for beta in _weights(nu):
        assert int(blocks.index(1.0, beta)) == int(onset.ways_out(nu, 1, beta))


@given(data(("binary",)))
def test_binary_data_have_the_eigenvalues_of_their_correlations(drawn):
    _, x = drawn
    correlations = np.linalg.eigvalsh(np.corrcoef(x.T))[::-1]
    np.testing.assert_allclose(_nu("binary", x), correlations, atol=n * EXACT)


@given(data(("real",)), strategies.noise)
def test_a_gaussian_has_the_data_s_eigenvalues_over_sigma2(drawn, sigma2):
    moments = mom.from_data(drawn[1])
    expected = mom.spectrum(moments).eigenvalues / sigma2
    nu = onset.eigenvalues(moments, "gaussian", sigma2)
    np.testing.assert_allclose(nu, expected, rtol=EXACT, atol=EXACT * expected[0])


@pytest.mark.slow
@pytest.mark.parametrize(("family", "constants"), [("bernoulli", (0, 1, 0.3)), ("poisson", (0, 2))])
def test_constant_columns_add_zeros_and_change_nothing_else(family, constants):
    x = np.random.default_rng(0).integers(0, 2, (ROWS, n)).astype(float)
    padded = np.insert(x, [0, 2, 3][: len(constants)], constants, axis=1)
    kept = np.ptp(padded, axis=0) > 0

    def first_two(x):
        return jnp.sum(jnp.arange(2, 0, -1) * onset.eigenvalues(mom.from_data(x), family)[:2])

    nu = np.asarray(onset.eigenvalues(mom.from_data(padded), family))
    alone = onset.eigenvalues(mom.from_data(x), family)
    np.testing.assert_allclose(nu[:n], alone, rtol=EXACT)
    # exactly where the family has no variance; of 0.3 or 2 rounding may be left
    np.testing.assert_array_equal(nu[len(nu) - sum(c in (0, 1) for c in constants) :], 0)
    np.testing.assert_allclose(nu[n:], 0, atol=EXACT)
    slope, expected = jax.jit(jax.grad(first_two))(padded), jax.jit(jax.grad(first_two))(x)
    np.testing.assert_allclose(slope[:, kept], expected, atol=FACTORED)
    np.testing.assert_array_equal(slope[:, ~kept], 0)


@pytest.mark.parametrize("rows", [6, 200])
def test_constant_columns_add_exact_zeros(rows):
    """A dense solver leaves rounding there, of either sign."""
    x = np.random.default_rng(0).integers(0, 2, (rows, 30)).astype(float)
    x[:, ::3] = 1
    nu = np.asarray(onset.eigenvalues(mom.from_data(x), "bernoulli"))
    constant = int((np.ptp(x, axis=0) == 0).sum())
    assert constant >= 10
    np.testing.assert_array_equal(nu[-constant:], 0)
    assert int((nu > EXACT).sum()) == np.linalg.matrix_rank(x - x.mean(0))


@pytest.mark.parametrize(("family", "sigma2"), [("bernoulli", None), ("gaussian", 2.0)])
def test_a_diagonal_covariance_is_taken_as_the_full_one(family, sigma2):
    mean, variances = jnp.array([0.5, 0.0, 0.1]), jnp.array([0.05, 0.0, 0.09])
    nu = [
        onset.eigenvalues(mom.from_covariance(cov, mean), family, sigma2)
        for cov in (variances, jnp.diag(variances))
    ]
    np.testing.assert_allclose(*nu, rtol=EXACT)
    by_hand = [1.0, 0.2, 0.0] if sigma2 is None else [0.045, 0.025, 0.0]
    np.testing.assert_allclose(nu[0], by_hand, rtol=EXACT)


def test_ways_out_are_whole_numbers_and_none_is_at_the_onset():
    nu = jnp.array([3.0, 3.0, 1.0, 0.0], jnp.float32)
    betas = jnp.array([0.5, 1.0, 2.0, 3.0, 4.0], jnp.float32)
    found = jax.jit(jax.vmap(lambda beta: onset.ways_out(nu, 5, beta)))(betas)
    np.testing.assert_array_equal(found, [15, 10, 10, 0, 0])
    assert found.dtype == jnp.int32


GOOD = mom.from_data(np.random.default_rng(0).integers(0, 2, (9, 2)).astype(float))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: onset.eigenvalues(GOOD, "binomial"), "^family: got 'binomial', expected one of"),
        (lambda: onset.eigenvalues(GOOD, "gaussian"), "^sigma2: got None"),
        (lambda: onset.eigenvalues(GOOD, "gaussian", 0.0), "^sigma2: got 0.0"),
        (lambda: onset.eigenvalues(GOOD, "poisson", 1.0), "^sigma2: got 1.0"),
        (lambda: onset.eigenvalues(np.eye(2), "poisson"), "^moments: got ndarray"),
        (
            lambda: onset.eigenvalues(mom.from_covariance(np.eye(2), [0.5, 1.5]), "bernoulli"),
            r"^moments.mean: got 1.5 in column 1, expected means in \[0, 1\]",
        ),
        (
            lambda: onset.eigenvalues(mom.from_covariance(np.eye(2), [-0.5, 1.5]), "poisson"),
            "^moments.mean: got -0.5 in column 0, expected means >= 0",
        ),
        (  # whoever forgets the mean
            lambda: onset.eigenvalues(mom.from_covariance(np.ones(2)), "bernoulli"),
            "^moments.mean: got 0 in column 0, whose variance is 1",
        ),
        (lambda: onset.ways_out([1.0, 2.0], 1, 1.0), "^nu: got an increasing sequence"),
        (lambda: onset.ways_out([2.0, 1.0], 0, 1.0), "^k: got 0"),
        (lambda: onset.ways_out([2.0, 1.0], 1, 0.0), "^beta: got 0.0"),
    ],
)
@pytest.mark.usefixtures("no_annotation_checks")
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(("family", "mean"), [("bernoulli", 1.01), ("poisson", -0.01)])
def test_a_mean_that_the_family_has_not_gives_nan_where_traced(family, mean):
    moments = mom.from_covariance(np.eye(2), np.array([0.5, mean]))
    traced = jax.jit(onset.eigenvalues, static_argnums=1)
    assert np.isnan(traced(moments, family)).all()
