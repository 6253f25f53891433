"""The paper's claims C8 to C10 on nonlinear VAEs, as measurements of the tables of `nonlinear`."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from scipy import stats

from landscape.paper.ledger import Check, Claim
from linvae_jax import collapse, predictions


class Held(NamedTuple):
    """Runs that held σ², and the linear VAE at the same σ², from small to large σ²; shares of k.

    Attributes:
        sigma2: (s,).
        collapsed: (s,), mean over seeds of the share of (0.01, 0.01)-collapsed latents.
        predicted: (s,), of the linear VAE.
        kl: (s,), nats per datum, mean over seeds.
        curves: (s, grid), share of (ε, 0.01)-collapsed latents, mean over seeds.
        predicted_curves: (s, grid), of the linear VAE.
        epsilon: (grid,), nats.
    """

    sigma2: np.ndarray
    collapsed: np.ndarray
    predicted: np.ndarray
    kl: np.ndarray
    curves: np.ndarray
    predicted_curves: np.ndarray
    epsilon: np.ndarray


def _mean(values: xr.DataArray) -> xr.DataArray:
    """Over seeds; NaN if one diverged, which is no reason to leave it out."""
    return values.mean("seed", skipna=False)


def _kl(table: xr.Dataset) -> xr.DataArray:
    """At the end, of all latents; nats per datum."""
    return _mean(table.final_kl.sum("latent", skipna=False))


def _collapse(table: xr.Dataset) -> xr.DataArray:
    """At the end, the mean over ε of the share that is (ε, 0.01)-collapsed: not of one ε's luck."""
    return _mean(table.final_collapse).mean("epsilon", skipna=False)


def held(tables: Mapping[str, xr.Dataset]) -> Held:
    """All runs with σ² held, of the paper's rows and of the further σ²."""
    parts = [tables[name].sel(learned=False) for name in ("table", "curves") if name in tables]
    k = parts[0].sizes["latent"]

    def joined(name: str) -> xr.DataArray:
        # the further σ² may have fewer seeds: means first
        return xr.concat([_mean(part[name]) for part in parts], "sigma2_init").sortby("sigma2_init")

    shares = joined("final_collapse").transpose("sigma2_init", "epsilon")
    sigma2 = shares.sigma2_init.values
    lam = jnp.asarray(parts[0].eigenvalue.values)
    linear = jax.vmap(lambda s: predictions.predict(lam, k, s))(jnp.asarray(sigma2))
    return Held(
        sigma2,
        joined("final_collapsed").values / k,
        np.asarray(linear.collapsed) / k,
        joined("final_kl").sum("latent", skipna=False).values,
        shares.values,
        np.asarray(collapse.is_collapsed(linear.below)).mean(axis=-1),
        shares.epsilon.values,
    )


def _rank_correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman's; NaN if either is constant."""
    varies = np.ptp(x) and np.ptp(y)
    return float(np.asarray(stats.spearmanr(x, y))[0]) if varies else float("nan")


def noise_controls_collapse(tables: Mapping[str, xr.Dataset]) -> Claim:
    """C8: in nonlinear VAEs too the observation noise controls collapse."""
    runs, table = held(tables), tables["table"]
    elbo = _mean(table.final_elbo)
    best = table.final_elbo.sel(learned=True, sigma2_init=elbo.sel(learned=True).idxmax())
    spread = float(best.std("seed", ddof=1)) if best.sizes["seed"] > 1 else 0.0
    gain = float(best.mean() - elbo.sel(learned=False).max())
    # where learning σ² takes it down the furthest
    largest = table.sel(sigma2_init=table.sigma2_init.max())
    at, kl = _collapse(largest), _kl(largest)
    return Claim(
        "C8",
        "In nonlinear VAEs the observation noise controls collapse; learning it gives a better "
        "ELBO with less collapse.",
        (
            Check(
                "rank correlation of held σ² and collapse (mean share over ε)",
                _rank_correlation(runs.sigma2, runs.curves.mean(axis=1)), ">=", 0.9,
                "1 if monotone; at one ε there are ties, where nothing is collapsed",
            ),
            Check(
                "rank correlation of held σ² and KL",
                _rank_correlation(runs.sigma2, runs.kl), "<=", -0.9, "−1 if monotone",
            ),
            Check(
                "best ELBO with σ² learned above the best with σ² held (nats/datum)",
                gain, ">=", -2 * spread,
                f"no worse than by two spreads over seeds, {spread:.2g} nats each",
            ),
            Check(
                "collapse (mean share over ε) at the largest σ²: held minus learned from there",
                float(at.sel(learned=False) - at.sel(learned=True)), ">=", 0.0,
                "at ε = 0.01 alone seeds decide; there the paper's falls on MNIST, rises on CelebA",
            ),
            Check(
                "KL at the largest σ²: learned from there over held",
                float(kl.sel(learned=True) / kl.sel(learned=False)), ">=", 1.5,
                "ours: latents tell more; in the paper's table 2.6 on MNIST, 6.5 on CelebA",
            ),
        ),
        f"Held σ² from {runs.sigma2[0]:g} to {runs.sigma2[-1]:g}: {100 * runs.collapsed[0]:.0f} to "
        f"{100 * runs.collapsed[-1]:.0f} % collapsed, KL {runs.kl[0]:.0f} to {runs.kl[-1]:.2g} "
        "nats.",
    )  # fmt: skip


def linear_predicts(tables: Mapping[str, xr.Dataset]) -> Claim:
    """C9: the linear VAE is largely predictive of the nonlinear one."""
    runs = held(tables)
    apart = np.abs(runs.curves - runs.predicted_curves).mean(axis=1)
    return Claim(
        "C9",
        "The linear VAE is largely predictive of collapse in nonlinear VAEs.",
        (
            Check(
                "rank correlation of collapse over held σ², predicted and measured",
                _rank_correlation(runs.predicted_curves.mean(axis=1), runs.curves.mean(axis=1)),
                ">=", 0.9, "1 if in the same order; each is the mean share over ε",
            ),
            Check(
                "share collapsed, |measured − predicted|, mean over σ²",
                float(np.abs(runs.collapsed - runs.predicted).mean()), "<=", 0.25,
                "ours: 'largely'; a prediction that knows nothing is 0.5 off",
            ),
            Check(
                "curves of collapse over ε, |measured − predicted|, mean over ε and σ²",
                float(apart.mean()), "<=", 0.25, "likewise",
            ),
        ),
        f"The curves are furthest apart at σ² = {runs.sigma2[apart.argmax()]:g}, by "
        f"{apart.max():.2f} on average over ε.",
    )  # fmt: skip


def annealing_does_not_prevent(tables: Mapping[str, xr.Dataset]) -> Claim:
    """C10: KL annealing does not prevent collapse: it comes back with the plain ELBO."""
    annealed = tables["annealing"].squeeze("learned")
    k, last = annealed.sizes["latent"], annealed.step[-1]
    plain = tables["table"].sel(learned=False, sigma2_init=annealed.sigma2_init, seed=annealed.seed)

    def share(table: xr.Dataset) -> xr.DataArray:
        return _mean(table.final_collapsed / k)

    during = annealed.where(annealed.step <= last / 2)
    peak = _mean(during.kl.max("step"))
    least = _mean((during.collapsed / k).min("step"))
    # where plain training collapses nothing there is nothing to prevent
    again = (_collapse(annealed) / _collapse(plain)).where(_collapse(plain) >= 0.05)
    lost = ((peak - _kl(annealed)) / (peak - _kl(plain))).where(peak > _kl(plain))
    notes = [
        f"σ² = {s:g}, {name}: KL {float(peak.sel(at)):.0f} nats at the most while annealed, "
        f"{float(_kl(annealed).sel(at)):.1f} at the end, "
        f"{float(_kl(plain).sel(sigma2_init=s)):.1f} "
        f"without; collapsed {100 * float(least.sel(at)):.0f} % at the least while annealed, "
        f"{100 * float(share(annealed).sel(at)):.0f} % at the end, "
        f"{100 * float(share(plain).sel(sigma2_init=s)):.0f} % without"
        for s in annealed.sigma2_init.values
        for name in annealed.annealing.values
        for at in [{"sigma2_init": s, "annealing": name}]
    ]
    return Claim(
        "C10",
        "KL annealing does not prevent collapse: it comes back when the plain ELBO resumes.",
        (
            Check(
                "collapse (mean share over ε) at the end, annealed over plain, least case",
                float(again.min()), ">=", 0.5,
                "ours: half of the latents saved is prevention; not at one ε, where seeds decide",
            ),
            Check(
                "share of the KL gained while annealed that is lost at the end, least case",
                float(lost.min(skipna=False)), ">=", 0.5,
                "ours, of the peak above what plain training ends with; 1 if nothing is kept",
            ),
        ),
        "; ".join(notes) + ".",
    )  # fmt: skip


def judge(tables: Mapping[str, xr.Dataset]) -> list[Claim]:
    """C8 to C10 of the tables of `nonlinear.train`."""
    return [
        noise_controls_collapse(tables),
        linear_predicts(tables),
        annealing_does_not_prevent(tables),
    ]
