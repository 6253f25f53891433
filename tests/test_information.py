"""Mutual information: against its definition, and the exact information of Gaussian codes."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from scipy.stats import norm
from tolerances import EXACT, STANDARD_ERRORS

from linvae_jax import information

LAM = np.array([6.0, 3.0, 1.2, 0.3])


def draw(mean: np.ndarray, log_d: np.ndarray, rng: np.random.Generator) -> jax.Array:
    return jnp.asarray(mean + np.exp(log_d / 2) * rng.normal(size=mean.shape))


def test_information_is_its_definition():
    """Against SciPy's densities in plain loops, two draws of each of seven data."""
    rng = np.random.default_rng(0)
    mean, log_d = 2 * rng.normal(size=(7, 3)), rng.uniform(-3, 0.5, size=(7, 3))
    z = jnp.stack([draw(mean, log_d, rng), draw(mean, log_d, rng)])
    whole = information.mutual_information(jnp.asarray(mean), jnp.asarray(log_d), z)
    each = information.mutual_information_per_latent(jnp.asarray(mean), jnp.asarray(log_d), z)
    second = jax.tree.map(lambda leaf: leaf[1], each)
    for estimate, latents in ((whole, slice(None)), (second, slice(1, 2))):
        lower, upper = np.empty((2, 7)), np.empty((2, 7))
        for sample, i in np.ndindex(2, 7):
            log_q = [
                norm(mean[j, latents], np.exp(log_d[j, latents] / 2))
                .logpdf(z[sample, i, latents])
                .sum()
                for j in range(7)
            ]
            lower[sample, i] = log_q[i] - np.log(np.mean(np.exp(log_q)))
            upper[sample, i] = log_q[i] - np.log(np.mean(np.exp(np.delete(log_q, i))))
        np.testing.assert_allclose(estimate.lower, lower.mean(), rtol=EXACT)
        np.testing.assert_allclose(estimate.upper, upper.mean(), rtol=EXACT)
        for got, terms in ((estimate.lower_error, lower), (estimate.upper_error, upper)):
            error = terms.mean(axis=0).std(ddof=1) / np.sqrt(7)
            np.testing.assert_allclose(got, error, rtol=EXACT)
        np.testing.assert_allclose(estimate.limit, np.log(7))


ENCODER = np.array([[0.5, 0.2, 0.0, 0.1], [-0.3, 0.4, 0.1, 0.0]])  # mixes the components
LOG_D = np.log([0.8, 1.5])


def gaussian_codes(seed: int, *shape: int) -> tuple[jax.Array, jax.Array]:
    """Posterior means and draws (*shape, 2) of Gaussian data with eigenvalues `LAM`."""
    rng = np.random.default_rng(seed)
    mean = (rng.normal(size=(*shape, 4)) * np.sqrt(LAM)) @ ENCODER.T
    return jnp.asarray(mean), draw(mean, LOG_D, rng)


def gaussian_information(latents: list[int]) -> float:
    """I = ½ log det(V S Vᵀ + D) − ½ log det D."""
    V, D = ENCODER[latents], np.exp(LOG_D[latents])
    return 0.5 * (np.linalg.slogdet((V * LAM) @ V.T + np.diag(D))[1] - np.log(D).sum())


def test_information_of_a_linear_gaussian_code_lies_between_the_bounds():
    mean, z = gaussian_codes(0, 1000)
    whole = information.mutual_information(mean, jnp.asarray(LOG_D), z)
    each = information.mutual_information_per_latent(mean, jnp.asarray(LOG_D), z)
    estimates = [whole, *(jax.tree.map(lambda leaf: leaf[j], each) for j in (0, 1))]  # noqa: B023
    for estimate, latents in zip(estimates, ([0, 1], [0], [1]), strict=True):
        exact = gaussian_information(latents)
        assert estimate.lower - STANDARD_ERRORS * estimate.lower_error <= exact
        assert exact <= estimate.upper + STANDARD_ERRORS * estimate.upper_error
        # narrow enough for the sandwich to say something of these 0.3 to 0.8 nats
        assert estimate.lower < estimate.upper < estimate.lower + 0.01
        assert max(estimate.lower_error, estimate.upper_error) < 0.04


def test_the_biases_have_their_signs_and_the_standard_errors_are_right():
    mean, z = gaussian_codes(1, 2000, 20)  # 2,000 sets of 20 data
    sets = jax.vmap(information.mutual_information, (0, None, 0))(mean, jnp.asarray(LOG_D), z)
    exact, root = gaussian_information([0, 1]), np.sqrt(2000)
    assert sets.lower.mean() + STANDARD_ERRORS * sets.lower.std() / root < exact
    assert sets.upper.mean() - STANDARD_ERRORS * sets.upper.std() / root > exact
    # the spread over the sets, which 2,000 tell to 2 %, is what each says of itself; the claim
    # is of first order, and 20 data are few
    np.testing.assert_allclose(sets.lower_error.mean(), sets.lower.std(), rtol=0.1)
    np.testing.assert_allclose(sets.upper_error.mean(), sets.upper.std(), rtol=0.1)


def test_information_at_its_two_ends():
    mean = jnp.arange(8.0)[:, None]
    apart = information.mutual_information(mean, jnp.array([-12.0]), mean)  # no overlap at all
    np.testing.assert_allclose(apart.lower, np.log(8), rtol=EXACT)
    assert apart.upper > 1e4
    same = information.mutual_information(jnp.zeros((8, 2)), jnp.zeros(2), mean * jnp.ones(2))
    np.testing.assert_allclose(same[:2], 0, atol=EXACT)  # a collapsed code says nothing


def test_information_in_float32_keeps_its_digits_far_from_the_origin():
    """Means near 100 with D = 1e-4: products of z and m would be off by 1e8 eps = 10 nats."""
    rng = np.random.default_rng(3)
    mean, log_d = 100 + 0.01 * rng.normal(size=(50, 4)), np.full(4, np.log(1e-4))
    codes = [jnp.asarray(a, np.float32) for a in (mean, log_d, draw(mean, log_d, rng))]
    single = information.mutual_information(*codes)
    double = information.mutual_information(*(a.astype(np.float64) for a in codes))
    assert {leaf.dtype for leaf in single} == {np.dtype(np.float32)}
    np.testing.assert_allclose(single, double, rtol=1e-5)


def test_information_never_holds_all_pairs_times_all_latents():
    M, k = 500, 50
    shapes = [jax.ShapeDtypeStruct((M, k), np.float32)] * 3
    memory = jax.jit(information.mutual_information).lower(*shapes).compile().memory_analysis()
    assert memory is not None
    assert memory.temp_size_in_bytes < 4 * M * M  # a fiftieth of M² k


@pytest.fixture
def no_annotation_checks() -> Iterator[None]:
    """Their message would come first and hide ours."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("mean", [(1, 2), (1, 2), (1, 2)]),
        ("log_d", [(5, 2), (3,), (5, 2)]),
        ("log_d", [(5, 2), (4, 2), (5, 2)]),
        ("z", [(5, 2), (2,), (4, 2)]),
        ("z", [(5, 2), (2,), (3, 4, 2)]),
    ],
)
@pytest.mark.usefixtures("no_annotation_checks")
def test_codes_of_wrong_shape_are_refused(name, shapes):
    with pytest.raises(ValueError, match=f"^{name}"):
        information.mutual_information(*(jnp.ones(shape) for shape in shapes))
