"""The one pipeline: measure what the paper claims on one data set, judge it, and report it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from landscape.paper import (
    facts,
    ledger,
    linear_claims,
    linear_experiments,
    network_experiments,
    report,
)
from landscape.paper.settings import Settings
from landscape.studies import identity
from linvae_jax import moments as mom
from linvae_jax import network_task, streams
from linvae_jax._internal import checks
from linvae_jax.evaluation import Transform

# patterns of the names of what is written
_MADE = ("figure?_*", "convergence_*", "landscape_*", "search.nc", "nonlinear_*", "sweeps",
         "ledger.*", "report.*")  # fmt: skip


@dataclass(frozen=True)
class Inputs:
    """One data set, as the linear VAE and as networks take it.

    Attributes:
        data: for networks, of `network_task.prepare`.
        x: (N, n), real numbers for the linear VAE; not looked at where there are no settings for
            it.
        transform: of `data`, as for `network_task.NetworkTask`.
        image_shape: of a datum, for convolutions.
        constant: nats that turn an ELBO into one of pixels.
        source: the data set in words; sentences call the data by it.
        identity: all that decides the data, by names that a user knows.
        attrs: further facts that are kept with every table.
    """

    data: network_task.Data
    x: Any = None
    transform: Transform | None = None
    image_shape: tuple[int, ...] | None = None
    constant: float = 0.0
    source: str = "data"
    identity: Mapping[str, Any] = field(default_factory=dict)
    attrs: Mapping[str, str] = field(default_factory=dict)


def check(settings: Settings, x: Any) -> None:
    """Raise `ValueError` for data that these settings cannot be computed on, before any work."""
    linear, networks = settings.linear, settings.networks
    if linear is None:
        return
    checks.data_matrix("x", x)
    n, most = x.shape[1], max(networks.k, networks.linear_k)
    told = f"more than the networks' {most} latents"
    if n <= networks.k:
        checks.fail("data", f"{n} dimensions", told)
    if n < 8:
        checks.fail(
            "x", f"data of {n} dimensions", "8 or more",
            "Figure 1 looks at the 5th and 7th directions.",
        )  # fmt: skip
    checks.in_range("k", linear.k, 3, n - 1, "k < n, σ² being learned")
    streams.check("seed", linear.seed)
    last = max(linear.seeds, linear.separated_seeds, 1) - 1
    streams.check("seed + seeds - 1", linear.seed + last)
    moments = mom.from_data(x)
    rank = int(mom.rank(mom.spectrum(moments).eigenvalues, moments.count))
    if rank <= linear.k:
        got = f"a covariance of rank {rank} <= k = {linear.k}"
        checks.fail("data", got, "a rank > k", "Take a smaller --k, or more data.")
    if rank <= most:
        checks.fail("data", f"a covariance of rank {rank}", told, "Take more data.")


def run(settings: Settings, inputs: Inputs, folder: Path) -> list[ledger.Claim]:
    """Measure, draw, train, judge the claims, and write everything into a folder.

    The same call goes on where it was killed: finished sweeps of networks are not trained again.

    Args:
        settings: how much to compute.
        inputs: the data.
        folder: where figures, tables, sweeps, the ledger and the report go. It has one identity:
            results of other settings or data are refused before anything is written.

    Returns:
        The claims, in order.

    Raises:
        ValueError: data that cannot be looked at; a folder of other settings or data, with what
            differs; as the functions of `linear_experiments` and `network_experiments`.
    """
    check(settings, inputs.x)
    identity.claim_folder(
        folder, "reproduce", {**inputs.identity, **settings.named()}, _MADE,
        longer=("--network-seeds", "--other-seeds"), optional=("--curvature", "--variations"),
    )  # fmt: skip
    attrs = {"source": inputs.source, **inputs.attrs}
    claims = []
    if settings.linear is not None:
        measured = linear_experiments.measure(
            settings.linear, inputs.x, folder, constant=inputs.constant, attrs=attrs
        )
        claims = linear_claims.judge(settings.linear, measured, facts.in_words(inputs.source))
        del measured  # 0.4 GB of MNIST
    network_experiments.train(
        settings.networks, inputs.data, inputs.transform, folder,
        image_shape=inputs.image_shape, constant=inputs.constant, attrs=attrs,
    )  # fmt: skip
    return report.write(folder, claims)
