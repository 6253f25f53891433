"""The diagnosis as labelled data: of data and loss alone, and of saved codes."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float, PRNGKeyArray

from landscape.curvature import onset
from landscape.diagnosis import codes as of_latents
from landscape.diagnosis import expected, reading, verdicts
from landscape.diagnosis.losses import Loss
from linvae_jax import collapse, gaussian, information, sources, streams, tables
from linvae_jax import moments as mom
from linvae_jax._internal import arrays, checks

_INFORMATION = 1000  # data between which codes must tell: the cost goes with their square

Variables = dict[str, tuple[Any, ...]]


def of_data(x: Any, loss: Loss, k: int) -> xr.Dataset:
    """Say what data and loss alone decide: how many latents are used at the optimum.

    Args:
        x: (N, ...), the data as the model is given them: arrays, images, anything NumPy reads.
        loss: as the code has it.
        k: number of latents.

    Returns:
        A data set over `component` (1 to n) and `wanted` (1, half and all of k latents). What is
        in it each variable says in its attributes; `notes` in the attributes of all says what was
        done to the data. Exact for the linear VAE where the likelihood is Gaussian. For others
        `collapse_is_optimal` is exact to second order, and the rest a guide.

    Raises:
        ValueError: data that `reading.data` refuses, or that are constant; k < 1.
    """
    checks.kind("loss", loss, Loss)
    checks.in_range("k", k, 1, 2**31 - 1, "at least one latent")
    values, notes = reading.data(x, loss.family)
    variables, _ = _of_data(values, loss, k, notes)
    return dataset(variables, loss, notes, k=k, count=len(values), n=values.shape[1])


def of_codes(
    mean: Any,
    log_var: Any,
    *,
    x: Any = None,
    loss: Loss | None = None,
    reconstruction: Any = None,
    log_sigma2: float | None = None,
    seed: int = 0,
) -> xr.Dataset:
    """Say what saved codes of a trained VAE tell, of any framework; with data and loss, verdicts.

    Give the codes of the *training* data: residuals are zero only there.

    Args:
        mean: (N, k), posterior means.
        log_var: (N, k) or (k,), logarithms of posterior variances.
        x: the data, as in `of_data`; needs `loss`.
        loss: as the code has it.
        reconstruction: (N, ...), means of p(x | z), z drawn from the posterior as in training
            (decoded from posterior means they have too little error); needs `x`.
        log_sigma2: log σ² that the model ended with, if it has one; one number.
        seed: for the information bounds, which draw z.

    Returns:
        A data set over `latent` (counted from 0), `epsilon`, and where data are given the
        dimensions of `of_data`. `verdict` gives each latent one of `verdicts.WORDS`.

    Raises:
        ValueError: what `reading` refuses; data without loss, reconstructions without data.
    """
    if (x is None) != (loss is None):
        missing, there = ("loss", "data") if loss is None else ("data", "a loss")
        checks.fail(missing, f"none, with {there}", "both or neither: verdicts need them")
    if reconstruction is not None and x is None:
        checks.fail("reconstruction", "some, without data", "the data beside them")
    notes: list[str] = []
    values = None
    if loss is not None:
        values, notes = reading.data(x, loss.family)
    mean, log_var, more = reading.codes(mean, log_var, None if values is None else len(values))
    notes += more
    if log_sigma2 is not None:
        checks.finite("log_sigma2", checks.scalar("log_sigma2", log_sigma2))
    error = None
    if reconstruction is not None and values is not None and loss is not None:
        given, more = reading.reconstruction(reconstruction, values, loss.family)
        notes += more
        error = reading.error(loss.family, values, given)
    if log_sigma2 is not None and (error is None or loss is None or loss.family != "gaussian"):
        notes.append(
            "log_sigma2 tells nothing here: it goes with reconstructions and a Gaussian likelihood."
        )
    key = streams.key(seed, "information")
    variables, extra = describe_codes(mean, log_var, values, loss, error, log_sigma2, key, notes)
    return dataset(variables, loss, notes, k=mean.shape[1], count=len(mean), **extra)


def dataset(variables: Variables, loss: Loss | None, notes: list[str], **facts: Any) -> xr.Dataset:
    """Make a data set of described variables; all dimensions get labels."""
    coords: dict[str, Any] = {}
    if loss is not None:
        facts |= {"loss": loss.in_words(), "likelihood": loss.family, "sigma2": loss.sigma2}
    for dims, values, *_ in variables.values():
        names = [dims] if isinstance(dims, str) else dims
        for dim, size in zip(names, np.shape(values), strict=True):
            first = 1 if dim == "component" else 0
            coords.setdefault(dim, np.arange(first, first + size))
    for name in ("epsilon", "wanted"):
        if name in variables:
            coords[name] = variables.pop(name)[1:]
    attrs = tables.provenance(loss, notes="\n".join(notes), **facts)
    return tables.dataset(variables, coords, attrs)


def _of_data(
    values: np.ndarray, loss: Loss, k: int, notes: list[str]
) -> tuple[Variables, expected.Expected]:
    """Describe the optimum; sentences are added to `notes`."""
    n = values.shape[1]
    lam, exists = _eigenvalues(values, loss, k, notes)
    found = expected.of_spectrum(lam, loss, k, **exists)
    unit = {"gaussian": "data unit²"}.get(loss.family, "1")
    level_unit = "1" if loss.learns_sigma2 else unit
    kept = found.kept
    above = collapse.count(lam > found.waterline, lam / found.waterline)
    collapsed = ~(found.thresholds > found.level).any()

    def weight(level: Any) -> Any:
        return loss.weight(level, n, k)

    variables: Variables = {
        "eigenvalue": ("component", lam, unit, "λ of the covariance; ν of other likelihoods"),
        "threshold": ("component", found.thresholds, level_unit, "level below which it is used"),
        "linear_kl": ("component", found.kl, "nats", "KL of its latent in the best linear VAE"),
        "level": ((), found.level, level_unit, "τ of the loss; β where σ² is learned or absent"),
        "waterline": ((), found.waterline, unit, "τ = βσ², also where σ² is learned; or β"),
        "num_above": ((), above, "1", "components above the waterline"),
        "linear_num_in_use": ((), found.num_in_use, "1", "latents that the best linear VAE uses"),
        "linear_rate": ((), found.rate, "nats/datum", "their KL in all"),
        "collapse_is_optimal": (
            (), collapsed, "1", "total collapse is optimal (Gaussian), or stable (others)"
        ),
        "weight_collapse": (
            (), weight(found.thresholds[0]), "1", "KL weight from which all collapse"
        ),
        "wanted": ("wanted", expected.wanted(k), "1", "latents to be kept in use"),
        "kept": ("wanted", kept.number, "1", "latents that it keeps, or 0"),
        "kept_level": ("wanted", kept.level, level_unit, "level of the advised weight"),
        "weight": ("wanted", weight(kept.level), "1", "KL weight that is advised"),
        "weight_low": ("wanted", weight(kept.low), "1", "from this weight on so many are kept"),
        "weight_high": ("wanted", weight(kept.high), "1", "and below this one"),
        "weight_best": (
            (), weight(found.level_best), "1", "KL weight that is best for likelihood, σ² tuned"
        ),
    }  # fmt: skip
    if loss.family == "gaussian":
        lost = "nats that the loss costs the likelihood"
        variables |= {
            "linear_distortion": ((), found.distortion, unit, "E‖x − x̂‖² of the best linear VAE"),
            "linear_objective": (
                (), found.distortion / (2 * found.waterline) + found.rate, "nats/datum",
                "its loss, E‖x − x̂‖²/(2τ) + KL",
            ),
            "linear_elbo": ((), found.elbo, "nats/datum", "its ELBO; σ² = τ if the loss has none"),
            "best_elbo": ((), found.elbo_best, "nats/datum", "the maximum over weights and σ²"),
            "nats_lost": ((), found.elbo_best - found.elbo, "nats/datum", f"{lost}, at its σ²"),
            "nats_lost_tuned": (
                (), found.elbo_best - found.elbo_tuned, "nats/datum", f"{lost}, σ² tuned afterwards"
            ),
        }  # fmt: skip
    else:
        ways = onset.ways_out(lam, k, loss.level(n, k))
        variables["ways_out"] = ((), ways, "1", "ways out of total collapse")
    return variables, found


def _eigenvalues(
    values: np.ndarray, loss: Loss, k: int, notes: list[str]
) -> tuple[Float[Array, "n"], dict[str, bool]]:
    """Return λ or ν, all n of them, and which maxima over σ² exist."""
    N, n = values.shape
    # rank, and with it whether a best σ² exists, is decided by rounding: take all digits there are
    values = values.astype(np.promote_types(values.dtype, jnp.result_type(float)), copy=False)
    if loss.family != "gaussian":
        return onset.eigenvalues(mom.from_data(values), loss.family), {}
    if n > N:
        thin = mom.thin_spectrum(values, "data").eigenvalues
        lam = jnp.pad(thin, (0, n - len(thin)))
    else:
        lam = mom.spectrum(mom.from_data(values)).eigenvalues
    has_best = expected.has_maximum(lam, k, 1.0, float(N))
    if not has_best:
        many = "1 latent" if min(k, n) == 1 else f"{min(k, n):,} latents"
        notes.append(
            f"{many} can explain these data completely. So the likelihood has no maximum over σ², "
            "and there is no best KL weight: the smaller, the better."
        )
    elif k >= n:
        notes.append(
            f"{n:,} latents can explain these data completely. So for the likelihood every σ² up "
            "to the smallest λ is as good; the numbers are those of the largest."
        )
    exists = {"has_best": has_best}
    if loss.learns_sigma2:
        exists["has_optimum"] = expected.has_maximum(lam, k, loss.level(n, k), float(N))
    return lam, exists


def describe_codes(
    mean: np.ndarray,
    log_var: np.ndarray,
    values: np.ndarray | None,
    loss: Loss | None,
    error: float | None,
    log_sigma2: Any,
    key: PRNGKeyArray,
    notes: list[str],
) -> tuple[Variables, dict[str, Any]]:
    """Describe codes, beside the optimum where data and loss are known."""
    k = mean.shape[1]
    found = of_latents.statistics(mean, log_var)
    rank = np.empty(k, int)
    # a few data may give a collapsed latent more KL in the mean than one in use has
    rank[np.lexsort((-np.asarray(found.kl), np.asarray(found.collapsed)))] = np.arange(k)
    variables: Variables = {}
    facts: dict[str, Any] = {}
    in_use = kl = None
    if values is not None and loss is not None:
        facts["n"] = values.shape[1]
        variables, best = _of_data(values, loss, k, notes)
        padding = (0, max(0, k - len(best.kl)))
        in_use, kl = jnp.pad(best.in_use, padding)[rank], jnp.pad(best.kl, padding)[rank]
        variables["expected_kl"] = ("latent", kl, "nats", "of the linear VAE's latent of its rank")
        if error is not None:
            if log_sigma2 is None:
                # where it is learned and nobody says what was found, that of the best linear VAE
                log_sigma2 = jnp.log(best.waterline / loss.sigma2_and_beta(facts["n"], k)[1])
                if loss.learns_sigma2:
                    notes.append(
                        "No log_sigma2 was given: the ELBO is with σ² of the best linear VAE."
                    )
            elif loss.sigma2 is not None and abs(float(log_sigma2) - np.log(loss.sigma2)) > 0.01:
                notes.append(
                    f"The loss has σ² = {loss.sigma2:g}, and log_sigma2 says "
                    f"{np.exp(float(log_sigma2)):.3g}: the level is of the former, the ELBO of the "
                    "latter."
                )
            rate = float(found.kl.sum())
            variables |= _reconstructed(error, rate, facts["n"], loss.family, float(log_sigma2))
            if loss.family == "gaussian" and not loss.learns_sigma2:
                objective = error / (2 * float(best.level)) + rate
                variables["objective"] = (
                    (), objective, "nats/datum", "the loss, E‖x − x̂‖²/(2τ) + KL"
                )  # fmt: skip
    residuals = found.scale_residual, found.shift_residual
    given = np.asarray(verdicts.judge(found.collapsed, in_use, *residuals))
    medians = [verdicts.median_in_use(found.collapsed, residual) for residual in residuals]
    whole, each = _information(mean, log_var, key)
    variables |= {
        "kl": ("latent", found.kl, "nats", "mean KL"),
        "verdict": ("latent", np.array(verdicts.WORDS)[given], "1", "verdict"),
        "rank": ("latent", rank + 1, "1", "its rank by KL, from 1; collapsed ones last"),
        "collapsed": ("latent", found.collapsed, "1", "whether it is (0.01, 0.01)-collapsed"),
        "active": ("latent", found.active, "1", "whether Var E[z | x] > 0.01 (Burda et al.)"),
        "mean_variance": ("latent", found.mean_variance, "1", "variance of posterior means"),
        "variance": ("latent", found.variance, "1", "mean of posterior variances"),
        "scale_residual": ("latent", found.scale_residual, "1", "E[m² + D] − 1; 0 at the end"),
        "shift_residual": ("latent", found.shift_residual, "1", "E[m]; 0 at the end"),
        "information_lower": ("latent", each.lower, "nats", "lower bound of I(x; z_j)"),
        "information_upper": ("latent", each.upper, "nats", "upper bound of I(x; z_j)"),
        "share_below": (("epsilon", "latent"), found.below, "1", "share of data with KL_j < ε"),
        "epsilon": ("epsilon", found.epsilon, "nats", "ε"),
        "rate": ((), found.kl.sum(), "nats/datum", "KL of all latents"),
        "num_in_use": ((), (~found.collapsed).sum(), "1", "latents that are not collapsed"),
        "num_active": ((), found.active.sum(), "1", "active units"),
        "code_information_lower": ((), whole.lower, "nats", "lower bound of I(x; z)"),
        "code_information_upper": ((), whole.upper, "nats", "upper bound of I(x; z)"),
        "information_limit": ((), whole.limit, "nats", "the most that a lower bound can show"),
        "median_scale_residual": ((), medians[0], "1", "median |scale residual| of those in use"),
        "median_shift_residual": ((), medians[1], "1", "median |shift residual| of those in use"),
        "at_rest": (
            (), verdicts.at_rest(found.collapsed, *residuals), "1",
            "whether residuals are as small as at the end of training",
        ),
    }  # fmt: skip
    return variables, facts


def _reconstructed(error: float, rate: float, n: int, family: str, log_sigma2: float) -> Variables:
    """Describe what reconstructions add."""
    if family != "gaussian":
        return {
            "reconstruction_nats": ((), error, "nats/datum", "−E log p(x | z)"),
            "elbo": ((), -error - rate, "nats/datum", "ELBO, at β = 1"),
        }
    tuned = error / n
    elbo, best = (
        float(gaussian.log_density(jnp.asarray(error), n, jnp.asarray(s))) - rate
        for s in (log_sigma2, np.log(tuned))
    )
    return {
        "distortion": ((), error, "data unit²", "E‖x − x̂‖²"),
        "sigma2": ((), np.exp(log_sigma2), "data unit²", "σ² in use; τ where the loss has none"),
        "sigma2_tuned": ((), tuned, "data unit²", "σ² that the distortion implies"),
        "elbo": ((), elbo, "nats/datum", "ELBO with the σ² in use, at β = 1"),
        "elbo_tuned": ((), best, "nats/datum", "ELBO with the σ² that the distortion implies"),
    }


def _information(
    mean: np.ndarray, log_var: np.ndarray, key: PRNGKeyArray
) -> tuple[information.MutualInformation, information.MutualInformation]:
    """Bracket the information of the whole code and of each latent, from some of the data."""
    some = np.asarray(sources.spread(len(mean), _INFORMATION))
    m = arrays.as_float("mean", mean[some])
    log_d = arrays.as_float("log_var", np.broadcast_to(log_var, mean.shape)[some]).astype(m.dtype)
    z = m + jnp.exp(log_d / 2) * jax.random.normal(key, m.shape, m.dtype)
    return (
        information.mutual_information(m, log_d, z),
        information.mutual_information_per_latent(m, log_d, z),
    )
