"""A run has diverged if it ended in NaN, or if its numbers say no less.

Training climbs an objective, J = E log p(x | z) − w Σ KL with the weight w of the KL at that step.
Whatever the unit of the data and σ², a model pays for what it does not explain

    cost = −J − n/2 log 2πσ² = E‖x − x̂‖²/(2σ²) + w Σ KL  ≥  0   nats per datum.

Two models need no training: the one that a run begins with, and total collapse (W = V = 0, D = 1),
whose cost is tr S/(2σ²). A run is lost at a record where

1. something is NaN or infinite; or
2. its weights are worse than both: at its own σ² its cost is above twice the larger of their costs
   plus n/2. Per datum it then loses once more all that is there: what the data's variance costs
   and, with n/2, what a draw of the noise costs; or
3. its σ² ran away: J is below both, each at its best σ² (total collapse at tr S/n; the start
   at its own), by more than their cost and n/2. Where σ² is held this says the same as 2.

Steps that climb cannot get there. A run that has not learned yet is not lost, for its start is no
worse; nor is one with a very negative ELBO as such: at σ² = 1e-3 total collapse itself pays 500
times the variance. Noise of minibatches moves J by less than its cost. While KL annealing makes w
small the KL may grow, and J counts it with that w. Runs that leave the range and come back have
not diverged: `sweeps` looks at the end.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from linvae_jax import training

# what is judged: if one of them is not finite the run is lost
JUDGED = ("elbo", "reconstruction", "kl", "sigma2")

# name in a history besides the task's records → of what: from before the first step
START = {"start_elbo": "elbo", "start_reconstruction": "reconstruction", "start_kl": "kl"}


def lost(
    task: training.Task,
    data: Any,
    hyper: training.Hyperparameters,
    steps: np.ndarray,
    measured: Mapping[str, np.ndarray],
) -> np.ndarray:
    """Return where runs are lost (runs, records), by the rule of the module's text.

    What is measured has `JUDGED` (runs, records, …), after `steps`, and `START` (runs, …). Where
    the start is not finite total collapse alone is what a run is compared with.
    """
    n, variance = task.dimension(data), task.variance(data)
    first = np.asarray(hyper.sigma2, float)[:, None]
    learned = np.asarray(hyper.learned, bool)[:, None]
    weight = np.asarray(hyper.beta, float)[:, None]
    if np.any(np.asarray(hyper.annealing.steps) > 0):
        of_each: Any = jax.vmap(jax.vmap(training.beta_at, (None, 0)), (0, None))
        weight = np.asarray(of_each(hyper, jnp.asarray(steps) - 1), float)  # of the step before
    values = {name: np.asarray(measured[name], float) for name in JUDGED}
    finite = [np.isfinite(v).reshape(*v.shape[:2], -1).all(axis=2) for v in values.values()]
    begun = np.asarray(measured["start_reconstruction"], float)[:, None]
    begun_kl = weight * np.asarray(measured["start_kl"], float).sum(axis=1)[:, None]

    def free(sigma2: Any) -> Any:
        return -0.5 * n * np.log(2 * np.pi * sigma2)

    with np.errstate(all="ignore"):  # what is not finite is lost in any case
        sigma2 = values["sigma2"]
        objective = values["reconstruction"] - weight * values["kl"].sum(axis=2)
        error = 2 * first * (free(first) - begun)  # E‖x − x̂‖² of the start
        known = np.isfinite(error + begun_kl)

        def limit(error: Any, kl: Any, sigma2: Any) -> Any:
            return free(sigma2) - 2 * (0.5 * error / sigma2 + kl) - 0.5 * n

        started, collapsed = (error, begun_kl), (variance, 0.0)
        worse, ran_away = (
            (objective < limit(*collapsed, at)) & (~known | (objective < limit(*started, of)))
            for at, of in ((sigma2, sigma2), (np.where(learned, variance / n, first), first))
        )
    return worse | ran_away | ~np.logical_and.reduce(finite) | (sigma2 <= 0)


def ended(lost_at_records: np.ndarray, lost_at_end: np.ndarray) -> np.ndarray:
    """Return from which record on a run that diverged was lost for good, (runs, records).

    It has diverged if it is lost at the end (runs,): on all data, if that was measured.
    """
    at = lost_at_records.copy()
    at[:, -1] |= lost_at_end
    lasting = np.logical_and.accumulate(at[:, ::-1], axis=1)[:, ::-1]
    return lasting & lost_at_end[:, None]
