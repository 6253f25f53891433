"""Every stationary point of the ELBO: closed forms against autodiff, the list against search."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from objective import elbo, variables_of

from landscape.autodiff import hessian
from landscape.curvature import mixed_blocks
from landscape.points import census, mixed, search, stationary
from landscape.points.mixed import Group, PointType
from landscape.testing import laws
from linvae_jax import linear, moments, ppca

# (n, k, βσ² / median eigenvalue, β); four latents make two mixed groups
CASES = [(2, 2, 0.3, 1.0), (4, 3, 0.8, 2.0), (5, 4, 0.3, 1.0), (6, 3, 1.0, 0.5), (6, 4, 0.8, 1.0)]


def problem(n, seed):
    """Distinct eigenvalues and a rotation."""
    rng = np.random.default_rng(seed)
    lam = np.sort(rng.gamma(2.0, 2.0, n) + np.linspace(0.5, 0, n))[::-1].copy()
    U, _ = np.linalg.qr(rng.normal(size=(n, n)))
    S = (U * lam) @ U.T
    return jnp.asarray(lam), jnp.asarray(U), moments.from_covariance((S + S.T) / 2)


def assert_type_is_right(lam, U, m, point_type, sigma2, beta=1.0):
    """Gradient, value, spectrum, index and nullity at the representative, against autodiff."""
    point = mixed.point(lam, point_type, sigma2, beta)
    params = mixed.params(point, U)
    arguments = (elbo, variables_of(params, m), params, m, jnp.asarray(beta))
    laws.assert_stationary(*arguments, tolerance=1e-13)
    laws.assert_spectrum(*arguments, eigenvalues=mixed_blocks.hessian_eigenvalues(point))
    index, nullity = mixed.inertia(point)
    laws.assert_index(*arguments, index=index, nullity=nullity, rtol=1e-11)
    np.testing.assert_allclose(mixed.value(point), linear.elbo(params, m, beta), rtol=1e-13)


@pytest.mark.slow
@pytest.mark.parametrize(("n", "k", "level", "beta"), CASES)
def test_closed_forms_hold_at_every_type(n, k, level, beta):
    lam, U, m = problem(n, seed=n + k)
    sigma2 = level * float(jnp.median(lam)) / beta
    for point_type in census.types(lam, k, sigma2, beta):
        assert_type_is_right(lam, U, m, point_type, sigma2, beta)


@pytest.mark.slow
@pytest.mark.parametrize(
    "lam",
    [
        [9.0, 4.0, 1.0, 0.25],  # equal s: √λ = 3, 2, 1 on three latents is also {0,2} and {1}
        [4.0, 4.0, 1.0, 0.0],  # a tie, and S singular
        [9.0, 9.0, 9.0, 2.0],
        [5.0, 2.0, 0.5, 0.5],  # σ² = 0.5 on the threshold
    ],
)
def test_ties_resonances_and_zero_eigenvalues_count_as_the_theorem_says(lam):
    lam = jnp.asarray(lam)
    m = moments.from_covariance(lam)
    for point_type in census.types(lam, 3, 0.5):
        assert_type_is_right(lam, jnp.eye(4), m, point_type, 0.5)


def test_components_of_one_eigenvalue_do_not_share_as_many_latents_but_with_another_they_do():
    def shared(lam, *components):
        listed = census.types(jnp.asarray(lam), 3, 0.5)
        return PointType((Group(components, len(components)),), 3 - len(components)) in set(listed)

    assert not shared([9.0, 9.0, 9.0, 2.0], 0, 1, 2)
    assert shared([9.0, 9.0, 8.0, 2.0], 0, 1, 2)
    assert shared([9.0, 8.0, 8.0, 2.0], 0, 1, 2)
    assert not shared([9.0, 8.0, 8.0, 2.0], 1, 2)


def test_three_groups_and_collapsed_latents_together():
    lam, U, m = problem(6, seed=5)
    lam = lam + 1.0
    m = moments.from_covariance((U * lam) @ U.T)
    for groups in [
        (Group((0,), 1), Group((1,), 1), Group((3,), 1)),
        (Group((0, 2), 2), Group((1,), 2), Group((3,), 1)),
    ]:
        k = sum(g.latents for g in groups)
        assert_type_is_right(lam, U, m, PointType(groups, 6 - k), 0.4)


def profile_spectrum(lam, point_type, sigma2):
    """Eigenvalues of the profile ELBO's Hessian by blocks (a) to (e) of the proof."""
    p = mixed.point(lam, point_type, sigma2)
    gamma, noise = p.gamma, p.tau
    a2 = gamma - noise
    parts: list[np.ndarray] = [
        p.unused[:, None] / noise**2 - 1 / p.spare_s2,
        (p.unused[:, None] - p.used) / (noise * gamma),
        (1 / p.s2 - 1 / p.spare_s2[:, None])[p.foreign],
    ]
    for i, t in zip(*np.nonzero(np.triu(p.group[:, None] != p.group)), strict=True):
        delta = 1 / p.s2[i] - 1 / p.s2[t]
        e = 1 / (p.s2[i] * gamma[t]) + 1 / (p.s2[t] * gamma[i])
        off = -e * np.sqrt(a2[i] * a2[t])
        block = [[delta - e * a2[t], off], [off, -delta - e * a2[i]]]
        parts.append(np.linalg.eigvalsh(np.array(block)))
    for g, group in enumerate(point_type.groups):
        mine = p.group == g
        s2 = p.s2[mine][0]
        W = np.sqrt(a2[mine])[:, None] * mixed.sharing(a2[mine], group.latents)

        basis = np.eye(W.size).reshape(-1, *W.shape)
        E = basis @ W.T + W @ basis.swapaxes(1, 2)
        norms = 2 * (W * basis).sum(axis=1)
        q = norms @ norms.T / (2 * s2**2) - np.einsum("xil,yil,l->xy", E, E, 1 / gamma[mine]) / s2
        parts.append(np.linalg.eigvalsh(q))
    return np.sort(np.concatenate([np.ravel(x) for x in parts]))


@pytest.mark.slow
@pytest.mark.parametrize("groups", [((0, 2), 3, (1,), 1), ((1, 2), 2, (0,), 2), ((0, 1, 3), 3)])
def test_blocks_of_the_proof_are_those_of_the_profile_elbo(groups):
    lam, U, m = problem(5, seed=2)
    point_type = PointType(
        tuple(Group(c, r) for c, r in zip(groups[::2], groups[1::2], strict=True)), collapsed=1
    )
    sigma2 = 0.5 * float(lam[3])
    W = mixed.params(mixed.point(lam, point_type, sigma2), U).W
    dense = np.linalg.eigvalsh(hessian.dense(lambda W: linear.profile_elbo(W, sigma2, m), W))
    mine = profile_spectrum(lam, point_type, sigma2)
    np.testing.assert_allclose(mine, dense, rtol=0, atol=1e-11 * np.abs(dense).max())


def test_single_component_types_are_the_stationary_points_of_ppca():
    lam, _, _ = problem(5, seed=3)
    sigma2 = 0.8 * float(lam[3])
    single = [t for t in census.types(lam, 3, sigma2) if not t.mixed]
    assignments = list(stationary.assignments(lam, 3, sigma2))
    assert len(single) == len(assignments) == stationary.count(lam, 3, sigma2)
    by_components = {tuple(g.components[0] for g in t.groups): t for t in single}
    for a in assignments:
        point_type = by_components[tuple(a[a >= 0].tolist())]
        assert mixed.index(mixed.point(lam, point_type, sigma2)) == stationary.index(
            stationary.point(lam, a, sigma2)
        )
        expected = float(stationary.value(stationary.point(lam, a, sigma2)))
        np.testing.assert_allclose(
            mixed.value(mixed.point(lam, point_type, sigma2)), expected, rtol=1e-14
        )


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_only_the_global_maximum_has_index_zero(seed):
    lam, _, _ = problem(6, seed)
    sigma2 = float(lam[seed]) * 0.9
    listed = census.table(lam, 4, sigma2)
    assert np.flatnonzero(listed.index == 0).tolist() == [0]
    np.testing.assert_allclose(listed.value[0], ppca.optimal_elbo(lam, 4, sigma2), rtol=1e-14)
    assert (listed.gap[1:] > 0).all()
    assert listed.types[-1] == PointType((), 4)
    assert len(listed.types) == census.count(lam, 4, sigma2)


def test_groups_can_use_components_below_the_noise():
    lam = jnp.array([9.0, 0.5])
    shared = PointType((Group((0, 1), 2),))
    assert shared in set(census.types(lam, 2, 1.0))
    assert_type_is_right(lam, jnp.eye(2), moments.from_covariance(lam), shared, 1.0)
    assert shared not in set(census.types(jnp.array([9.0, 0.1]), 2, 1.0))


@pytest.mark.parametrize("squares", [[5.0], [5.0, 1.0], [5.0, 3.0, 1.0], [1.0, 1.0 + 1e-9]])
@pytest.mark.parametrize("spare", [0, 1, 4])
def test_sharing_has_orthonormal_rows_equal_columns_and_couples_all_latents(squares, spare):
    squares = np.array(squares)
    m = len(squares) + spare
    Q = mixed.sharing(squares, m)
    np.testing.assert_allclose(Q @ Q.T, np.eye(len(squares)), atol=1e-14)
    G = Q.T @ np.diag(squares) @ Q
    np.testing.assert_allclose(np.diag(G), squares.sum() / m, rtol=1e-13)
    joined = np.linalg.matrix_power((np.abs(G) > 1e-12).astype(float), m)
    assert (joined > 0).all()


# at least 20 problems, up to (n, k) = (4, 3)
SHAPES = [(2, 1)] * 3 + [(2, 2)] * 3 + [(3, 2)] * 4 + [(3, 3)] * 3 + [(4, 2)] * 3 + [(4, 3)] * 4


@pytest.fixture(scope="module")
def searches():
    found = []
    for seed, (n, k) in enumerate(SHAPES):
        lam, _, _ = problem(n, seed)
        sigma2 = (0.2 + 0.03 * seed) * float(lam[min(k, n - 1)])
        found.append(search.search(lam, k, sigma2, jax.random.key(seed), num_starts=200))
    return found


@pytest.mark.slow
def test_search_finds_nothing_that_is_not_listed(searches):
    assert len(searches) >= 20
    assert sum(len(f.unexplained) for f in searches) == 0
    assert all(f.num_starts == 200 for f in searches)
    starts, failed = 200 * len(searches), sum(f.not_converged for f in searches)
    print(f"{starts} starts, {failed} did not converge, 0 unexplained")
    assert failed < starts / 4
    assert max(f.distance.max() for f in searches) < 1e-7


def test_search_finds_mixed_saddles_and_most_types(searches):
    hit = np.concatenate([f.hits > 0 for f in searches])
    mixed = np.array([t.mixed for f in searches for t in f.census.types])
    print(f"{hit.sum()} of {hit.size} types found, {hit[mixed].sum()} of {mixed.sum()} mixed")
    assert hit.mean() > 0.6
    assert hit[mixed].mean() > 0.6
    small = [f for f, shape in zip(searches, SHAPES, strict=True) if shape == (2, 2)]
    assert all(f.hits[[t.mixed for t in f.census.types]].sum() > 0 for f in small)


def test_search_ends_after_the_steps_it_may_take():
    lam = jnp.array([4.0, 2.0])
    found = search.search(lam, 2, 1.0, jax.random.key(0), num_starts=20, max_steps=1)
    assert found.not_converged == 20  # nobody comes to 1e-9 in one step


def test_search_reports_a_point_that_is_missing_from_the_list(monkeypatch):
    lam = jnp.array([4.0, 2.0])
    full = census.table(lam, 2, 1.0)
    keep = np.array([not t.mixed for t in full.types])
    types = tuple(t for t in full.types if not t.mixed)
    cut = census.Census(
        types, full.value[keep], full.gap[keep], full.index[keep], full.nullity[keep]
    )
    monkeypatch.setattr(census, "table", lambda *_: cut)
    found = search.search(lam, 2, 1.0, jax.random.key(0), num_starts=200)
    assert len(found.unexplained) > 0
    moment = moments.from_covariance(lam)
    for W in found.unexplained:
        gradient = linear.gradient(linear.with_optimal_encoder(jnp.asarray(W), 1.0), moment)
        np.testing.assert_allclose(gradient.W, 0, atol=1e-7)


def test_types_are_canonical_and_print_short():
    one = PointType((Group((3, 1), 2), Group((0,), 1)), 1)
    assert one == PointType((Group((0,), 1), Group((1, 3), 2)), 1)
    assert str(one) == "{0}:1 {1,3}:2 collapsed:1"
    assert one.num_latents == 4


def test_bad_types_and_spectra_are_refused_with_the_argument_named():
    lam = jnp.array([4.0, 2.0, 0.5])
    for groups in [(Group((0, 0), 2),), (Group((0, 1), 1),), (Group((), 1),), (Group((-1,), 1),)]:
        with pytest.raises(ValueError, match=r"^groups: got"):
            PointType(groups)
    with pytest.raises(ValueError, match=r"^collapsed: got"):
        PointType(())
    with pytest.raises(ValueError, match=r"^point_type: .* can share"):
        mixed.value(mixed.point(lam, PointType((Group((2,), 1),)), 1.0))
    with pytest.raises(ValueError, match=r"^point_type: .* components 0 to 2"):
        mixed.index(mixed.point(lam, PointType((Group((3,), 1),)), 1.0))
    with pytest.raises(ValueError, match=r"^eigenvalues: "):
        census.types(lam[::-1], 2, 1.0)
    with pytest.raises(ValueError, match=r"^k: "):
        census.count(lam, 4, 1.0)
    with pytest.raises(ValueError, match=r"^sigma2: "):
        census.table(lam, 2, 0.0)
    with pytest.raises(ValueError, match=r"^eigenvalues: .* float64"):
        search.search(lam.astype(jnp.float32), 1, 1.0, jax.random.key(0))


@pytest.mark.slow
def test_mixed_points_are_values_for_jit_and_vmap():
    """Traced numbers give what NumPy gives, and NaN where the group cannot share."""
    lam = jnp.array([9.0, 4.0, 0.6, 0.1])
    shared = PointType((Group((0, 2), 3), Group((1,), 1)), collapsed=1)

    @jax.jit
    @jax.vmap
    def measure(sigma2):
        point = mixed.point(lam, shared, sigma2, 1.5)
        params = mixed.params(point, jnp.eye(4))
        spectrum = mixed_blocks.hessian_eigenvalues(point)
        return mixed.value(point), jnp.stack(mixed.inertia(point)), params.W, spectrum

    value, inertia, W, spectrum = measure(jnp.array([0.3, 0.5, 5.0]))
    for i, sigma2 in enumerate((0.3, 0.5)):
        point = mixed.point(lam, shared, sigma2, 1.5)
        np.testing.assert_allclose(value[i], mixed.value(point), rtol=1e-14)
        assert tuple(inertia[i]) == mixed.inertia(point)
        np.testing.assert_allclose(W[i], mixed.params(point, jnp.eye(4)).W, atol=1e-14)
        exact = mixed_blocks.hessian_eigenvalues(point)
        np.testing.assert_allclose(spectrum[i], exact, atol=1e-13 * np.abs(exact).max())
    assert np.isnan(value[2])
    assert inertia[2].tolist() == [0, 0]
    with pytest.raises(ValueError, match=r"^point_type: .* can share"):
        mixed.point(lam, shared, 5.0, 1.5)


def test_no_eigenvalue_above_the_noise_is_taken_for_rounding():
    lam, nothing = np.array([1.0, 2e-15]), PointType((), 1)
    for read in (mixed.point, jax.jit(mixed.point, static_argnums=1)):
        assert read(lam, nothing, 4e-15, 0.4).eigenvalues[-1] == lam[-1]  # τ = 1.6e-15
        assert read(lam, nothing, 4e-15, 0.8).eigenvalues[-1] == 0  # τ = 3.2e-15
