"""The one pipeline measures what the paper claims on one data set, judges it, and reports it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from landscape.paper import facts, report
from landscape.paper.ledger import Claim
from landscape.paper.linear import experiments as linear_experiments
from landscape.paper.networks import experiments as network_experiments
from landscape.paper.networks.experiments import NetworkData
from landscape.paper.settings import Settings
from landscape.studies import identity
from linvae_jax import moments as mom
from linvae_jax import sources, streams
from linvae_jax._internal import checks

# patterns of the names of what is written
_MADE = ("figure?_*", "convergence_*", "landscape_*", "linear_*", "notebook.*", "search.nc",
         "nonlinear_*", "sweeps", "ledger.*", "report.*")  # fmt: skip


def check(settings: Settings, x: Any) -> None:
    """Raise `ValueError` for data that these settings cannot be computed on, before any work."""
    linear, networks = settings.linear, settings.networks
    if linear is None:
        return
    streams.check("seed", linear.seed)
    checks.in_range("notebook_subsets", linear.notebook_subsets, 0, 2**31 - 1, "none or more")
    checks.in_range("notebook_steps", linear.notebook_steps, 1, 2**31 - 1, "at least one")
    last = max(linear.seeds, linear.separated_seeds, linear.notebook_subsets, 1) - 1
    streams.check("seed + seeds - 1", linear.seed + last)
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
    moments = mom.from_data(x)
    rank = int(mom.rank(mom.spectrum(moments).eigenvalues, moments.count))
    if rank <= linear.k:
        got = f"a covariance of rank {rank} <= k = {linear.k}"
        checks.fail("data", got, "a rank > k", "Take a smaller --k, or more data.")
    if rank <= most:
        checks.fail("data", f"a covariance of rank {rank}", told, "Take more data.")


def run(
    settings: Settings,
    images: NetworkData,
    folder: Path,
    *,
    x: Any = None,
    attrs: Mapping[str, str] | None = None,
) -> list[Claim]:
    """Measure, draw, train, judge the claims, and write everything into a folder.

    The same call goes on where it was killed: finished sweeps of networks are not trained again.
    The folder has one identity: results of other settings or data are refused before anything is
    written. For the linear VAE the same data are `x`, (N, n) real numbers. Every table keeps the
    attributes. Returns the claims, in order.

    Raises:
        ValueError: data that cannot be looked at; a folder of other settings or data, with what
            differs; as the functions of `linear.experiments` and `networks.experiments`.
    """
    check(settings, x)
    identity.claim_folder(
        folder, "reproduce", {**images.identity, **settings.named()}, _MADE,
        longer=("--network-seeds", "--other-seeds"), optional=("--curvature", "--protocols"),
    )  # fmt: skip
    attrs = {"source": images.source, **(attrs or {})}
    if settings.linear is not None:
        pixels = _digits(images)
        linear_experiments.measure(settings.linear, x, folder, images.constant, attrs, pixels)
    network_experiments.train(settings.networks, images, folder, attrs)
    return report.write(folder)


def _digits(images: NetworkData) -> Any:
    """Return the 8-bit pixels of MNIST's images, or None for other data and for preprocessed."""
    if images.transform is None or facts.in_words(images.source) != "the digits":
        return None
    return sources.whole(images.data.values)
