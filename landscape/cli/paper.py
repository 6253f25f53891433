"""`linvae reproduce` and `report`: the paper's claims, measured, and what was measured, told."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from landscape.cli import text
from landscape.cli.data import distinct, learnable, load, seed
from landscape.cli.options import Report, Reproduce
from landscape.cli.pixels import load_for_networks
from landscape.paper import ledger, network_experiments
from landscape.paper import report as reports
from landscape.paper import reproduce as exact_part
from landscape.paper.settings import (
    CELEBA,
    MNIST,
    QUICK,
    SMOKE,
    LinearSettings,
    NetworkSettings,
    Settings,
)  # fmt: skip
from landscape.studies import identity
from linvae_jax import moments as mom
from linvae_jax._internal import checks


def networks(options: Reproduce) -> NetworkSettings:
    """Which networks are trained, and for how long."""
    if options.full and options.smoke:
        checks.fail("smoke", "with --full", "one of them")
    preset = SMOKE if options.smoke else QUICK
    if options.full:
        colour = options.data.data in ("celeba", "photographs")
        preset = CELEBA if colour else MNIST
    chosen = {
        "epochs": options.epochs, "batch_size": options.network_batch,
        "seeds": options.network_seeds, "other_seeds": options.other_seeds,
    }  # fmt: skip
    flags = {"batch_size": "network_batch", "seeds": "network_seeds"}
    for name, value in chosen.items():
        if value is not None:
            checks.in_range(flags.get(name, name), value, 1, 2**31 - 1, "at least one")
    chosen = {name: value for name, value in chosen.items() if value is not None}
    settings = replace(preset, **chosen)
    if not options.curvature:
        settings = replace(settings, curvature_data=0)
    if not options.variations:
        settings = replace(settings, variations=())
    return replace(settings, other_seeds=min(settings.other_seeds, settings.seeds))


def reproduce(options: Reproduce) -> int:
    """Run all stages; exit with 1 if a claim does not hold."""
    chosen, settings = options.data, networks(options)
    seed(
        "seed", options.settings.seed, max(options.settings.seeds, options.settings.separated_seeds)
    )
    distinct("latents", options.settings.latents)
    if chosen.data == "auto":
        chosen = replace(chosen, data="mnist" if options.full else "digits")
    exact = settings.network == "mlp"  # colour images are too large for the exact part
    linear = options.settings.smoke() if options.smoke else options.settings
    if exact:
        x, constant, source, of_data = load(replace(chosen, window=None))
        latents = f"more than the networks' {max(settings.k, settings.linear_k)} latents"
        if x.shape[1] <= settings.k:  # before everything else is computed
            checks.fail("data", f"{x.shape[1]} dimensions", latents)
        exact_part.check(linear, x)
        moments = mom.from_data(x)
        lam = mom.spectrum(moments).eigenvalues
        learnable(lam, moments.count, linear.k, "Take a smaller --k, or more data.")
        rank = int(mom.rank(lam, moments.count))
        if rank <= max(settings.k, settings.linear_k):
            checks.fail("data", f"a covariance of rank {rank}", latents, "Take more data.")
        _claim(options, of_data | {"--window": chosen.window}, settings, linear)
        attrs = text.attrs(options, source)
        exact_part.run(linear, x, options.out, constant=constant, attrs=attrs)
        del x  # 0.4 GB of MNIST
    images = load_for_networks(chosen)
    if not exact:
        _claim(options, images.identity, settings)
    network_experiments.train(
        settings, images.data, images.transform, options.out, image_shape=images.image_shape,
        constant=images.constant, attrs=text.attrs(options, images.source),
    )  # fmt: skip
    return _report(options.out, options.smoke)


def _claim(
    options: Reproduce,
    of_data: dict[str, Any],
    networks: NetworkSettings,
    linear: LinearSettings | None = None,
) -> None:
    """The whole folder has one identity, looked at before anything is written into it."""
    preset = "full" if options.full else "smoke" if options.smoke else "quick"
    named = Settings(linear, networks, preset).named()
    identity.claim_folder(
        options.out, "reproduce", of_data | named,
        ("figure?_*", "convergence_*", "landscape_*", "search.nc", "nonlinear_*", "sweeps",
         "ledger.*", "report.*"),
        longer=("--network-seeds", "--other-seeds"), optional=("--curvature", "--variations"),
    )  # fmt: skip


def report(options: Report) -> int:
    """Judge C8 to C10, draw their figures, write; exit with 1 if a claim does not hold."""
    return _report(options.folder)


def _report(folder: Path, smoke: bool = False) -> int:
    """Write it, print the ledger; 1 if a claim does not hold that should."""
    claims = reports.write(folder)
    print("\n" + ledger.text(claims))
    print(f"\nreport.html, report.md, figures, tables and the ledger are in {folder}/")
    failed = [claim.id for claim in claims if not claim.holds]
    if failed:
        print(f"DOES NOT HOLD: {', '.join(failed)}", file=sys.stderr)
    if smoke:
        failed = [name for name in failed if name not in {"C7", "C8", "C9", "C10"}]
    return int(bool(failed))
