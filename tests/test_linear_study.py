"""The study's tables: against single exact results, and escapes against whole simulations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landscape.curvature import escape
from landscape.figures import linear as linear_figures
from landscape.figures import style
from landscape.paper.linear import claims as linear_claims
from landscape.points import stationary
from landscape.studies import landscape as landscape_study
from landscape.studies import linear as linear_study
from landscape.testing.strategies import orthogonal
from linvae_jax import linear, linear_task, sweeps, tables, training
from linvae_jax import moments as mom

LAM = jnp.array([9.0, 4.0, 2.0, 1.0, 0.5])


@pytest.mark.slow
def test_path_is_the_closed_form_index_and_value_at_every_sigma2():
    sigma2 = jnp.geomspace(0.2, 15, 30)
    path = linear_study.conditioning_path(LAM, 3, sigma2)
    for name, pattern in linear_study.patterns(3).items():
        at = path.sel(pattern=name)
        for i, s in enumerate(sigma2):
            alive = np.where((pattern >= 0) & (np.asarray(LAM)[pattern] > s), pattern, -1)
            assert at["index"][i] == stationary.index(stationary.point(LAM, alive, s))
            np.testing.assert_allclose(
                at.value[i], stationary.value(stationary.point(LAM, alive, s)), rtol=1e-12
            )
            if (alive < 0).any() and (np.delete(LAM, alive[alive >= 0]) > s).any():
                assert at.escape_rate[i] > 0
    assert path.critical_sigma2.sel(pattern="every second active").values.tolist() == [9, 0, 2]


@pytest.mark.slow
@pytest.mark.parametrize(("component", "sigma2"), [(0, 0.5), (1, 1.0), (2, 1.8)])
def test_gradient_descent_of_the_whole_model_leaves_at_the_predicted_rate(component, sigma2):
    """All variables, perturbed along the direction that the theory names.

    The fastest escape in a random basis; slower ones in the eigenbasis, since elsewhere rounding
    excites the fastest, which then overtakes them.
    """
    k, growth, start = 2, 1e3, 1e-6
    U = orthogonal(0, 5) if component == 0 else jnp.eye(5)
    S = (U * LAM) @ U.T
    moments = mom.from_covariance((S + S.T) / 2)
    step = float(1 / escape.collapsed_stiffness(LAM[0], jnp.asarray(sigma2)))
    rate = float(escape.escape_rate(LAM[component], sigma2))
    point = stationary.params(stationary.point(LAM, jnp.full(k, -1), sigma2), U)
    w, v = float(LAM[component] / sigma2), rate + 1 / sigma2
    scale = start / np.hypot(w, v)
    params = linear.LinearVAEParams(
        point.W.at[:, 1].set(scale * w * U[:, component]),
        point.V.at[1].set(scale * v * U[:, component]),
        point.log_d,
        point.log_sigma2,
    )

    def size(p: linear.LinearVAEParams) -> jax.Array:
        return jnp.sqrt(jnp.sum(p.W**2) + jnp.sum(p.V**2))

    def descend(carry):
        p, t = carry
        up = linear.gradient(p, moments)
        moved = jax.tree.map(lambda a, b: a + step * b, p, up)
        return linear.LinearVAEParams(moved.W, moved.V, moved.log_d, p.log_sigma2), t + 1

    _, taken = jax.jit(
        lambda p: jax.lax.while_loop(lambda c: size(c[0]) < start * growth, descend, (p, 0))
    )(params)
    fast = escape.simulate(LAM, component, sigma2, growth=growth, start=start)
    assert 0 <= taken - fast.simulated_steps <= 1  # `taken` is whole steps
    np.testing.assert_allclose(fast.simulated_steps, fast.predicted_steps, rtol=1e-4)


@pytest.mark.slow
def test_stiffness_at_total_collapse_is_the_spectrums():
    path = linear_study.conditioning_path(LAM, 2, jnp.array([0.3, 3.0]))
    collapsed = path.sel(pattern="all collapsed").stiffness
    expected = escape.collapsed_stiffness(LAM[0], jnp.array([0.3, 3.0]))
    np.testing.assert_allclose(collapsed, expected, rtol=1e-12)


def test_no_escape_is_refused_and_infinite():
    with pytest.raises(ValueError, match="component 2 with eigenvalue 2, expected eigenvalues >"):
        escape.simulate(LAM, 2, 2.5)
    assert jnp.isinf(escape.steps(jnp.asarray(-0.1), jnp.asarray(1.0), 10.0))


def test_histogram_counts_every_eigenvalue():
    points = {"optimum": np.arange(2), **linear_study.patterns(2)}
    table = linear_study.spectrum_histogram(LAM, points, 0.7)
    total = (table.negative + table.positive).sum("size")
    assert total.values.tolist() == [2 * 5 * 2 + 2] * 4
    for name, assignment in points.items():
        expected = stationary.index(stationary.point(LAM, assignment, 0.7))
        assert table.positive.sel(point=name).sum() == expected


@pytest.mark.slow
def test_census_and_search_tables_agree_with_the_theorem():
    table = linear_study.census_table(LAM[:4], 2, 0.8)
    assert int((table["index"] == 0).sum()) == 1
    assert float(table.gap.min()) == 0
    assert bool(table.mixed.any())
    found = linear_study.searches([(2, 1), (3, 2)], num_starts=40, seed=0)
    assert found.unexplained.sum() == 0
    assert (found.found > 0).all()
    with pytest.raises(ValueError, match="expected <= 20,000 types"):
        linear_study.census_table(jnp.linspace(9, 5, 30), 15, 0.1)
    # of these pPCA has 3,797 points
    with pytest.raises(ValueError, match="expected <= 5,000 types"):
        linear_study.census_table(jnp.linspace(9, 5, 12), 8, 0.1, max_types=5000)


@pytest.mark.slow
def test_each_simulated_escape_lies_on_its_curve():
    """The smallest is at a σ² far below those over which conditioning is followed."""
    lam = jnp.concatenate([LAM[:4], jnp.full(4, 0.5)])
    found = landscape_study.study(lam, 3, 0.8)
    curves, path = found.escapes, found.conditioning
    assert curves.sigma2_simulated.min() < path.sigma2[0]
    assert curves.sigma2[0] <= curves.sigma2_simulated.min()
    assert (curves.sigma2.diff("sigma2") > 0).all()
    assert curves.sigma2.values[-path.sizes["sigma2"] :].tolist() == path.sigma2.values.tolist()
    for component in curves.component.values:
        at = curves.sel(component=component)
        # a step grows by 1 + rate/stiffness; between points of the grid, 2 % apart, the curve is
        # nearly straight
        ratio = at.conditioning.interp(sigma2=at.sigma2_simulated)
        steps = np.log(1e3) / np.log1p(1 / ratio)
        np.testing.assert_allclose(steps, at.simulated_steps, rtol=0.02)


def test_figures_draw_from_tables(tmp_path):
    sigma2 = jnp.geomspace(0.2, 15, 20)
    path = linear_study.conditioning_path(LAM, 3, sigma2)
    escapes = linear_study.escapes(LAM, (0, 1, 2), sigma2, simulate_at=(0.1, 0.5))
    drawn = linear_figures.escape_and_conditioning(path, escapes)
    written = style.save(drawn, tmp_path / "figure")
    assert [p.suffix for p in written] == [".png", ".pdf"]
    assert all(p.stat().st_size > 5000 for p in written)
    for figure in (
        linear_figures.census_scatter(linear_study.census_table(LAM[:3], 2, 0.8)),
        linear_figures.hessian_spectra(
            linear_study.spectrum_histogram(LAM, linear_study.patterns(2), 0.7)
        ),
    ):
        # every axis of every panel is named, by itself or by one name under all of them
        assert figure.get_supxlabel() or all(axis.get_xlabel() for axis in figure.axes)
        assert figure.axes[0].get_ylabel()
    assert all(axis.get_xlabel() and axis.get_ylabel() for axis in drawn.axes)


def test_an_escape_that_would_take_too_long_is_not_held_against_the_claim():
    """Eigenvalues of pixels from 0 to 255: 10⁷ steps do not suffice at λ/2, and do at λ/10⁹."""
    lam = 4000.0 * LAM
    sigma2 = jnp.geomspace(0.2, float(lam[0]) * 1.5, 20)
    path = linear_study.conditioning_path(lam, 3, sigma2)
    escapes = linear_study.escapes(lam, (0, 1), sigma2, simulate_at=(1e-9, 0.5))
    assert np.isfinite(escapes.simulated_steps.values).tolist() == [[True, False]] * 2
    found = {
        "landscape_conditioning": path, "landscape_escapes": escapes,
        "linear_measurements": tables.dataset({}),
    }  # fmt: skip
    claim = linear_claims.conditioning_improves(found)
    assert claim.holds
    assert "2 of 4 cases" in claim.checks[-1].quantity
    found["landscape_escapes"] = escapes.isel(fraction=[1])  # none made
    assert not linear_claims.conditioning_improves(found).holds


@pytest.mark.slow
def test_a_diverged_run_or_a_failed_simulation_makes_its_claim_fail():
    """Maxima that skip NaN would let both pass."""
    sigma2 = jnp.geomspace(0.2, 15, 20)
    path = linear_study.conditioning_path(LAM, 3, sigma2)
    escapes = linear_study.escapes(LAM, (0, 1), sigma2, simulate_at=(0.1, 0.5))
    found = {
        "landscape_conditioning": path, "landscape_escapes": escapes.copy(deep=True),
        "linear_measurements": tables.dataset({}),
    }  # fmt: skip
    assert linear_claims.conditioning_improves(found).holds
    found["landscape_escapes"].simulated_steps[0, 0] = np.nan
    assert not linear_claims.conditioning_improves(found).holds

    problem = linear_task.problem(mom.from_covariance(LAM))
    task = linear_task.LinearTask(k=2)
    config = training.TrainConfig(num_steps=20_000, record_every=20_000)
    grid = sweeps.Grid(seeds=(0, 1), learning_rate=(0.03,))
    table = sweeps.run(task, config, problem, grid, quiet=True).table
    measured = tables.dataset(
        {"latents": ((), 2, "1", ""), "eigenvalue": ("component", LAM, "1", "")}
    )
    names = ("convergence_separated", "figure2_training_exact", "figure2_training_sampled")
    found = {"linear_measurements": measured, **dict.fromkeys(names, table)}
    assert linear_claims.recovers_ppca(found).holds
    table = table.copy(deep=True)  # JAX's arrays are read-only
    table.gap[0, 0, 0, -1] = np.nan
    assert not linear_claims.recovers_ppca(found | dict.fromkeys(names, table)).holds
