"""`linvae reproduce`, `report`, `verify`: claims measured, what was measured told, and checked."""

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from landscape.cli import text
from landscape.cli.data import distinct, real_data
from landscape.cli.options import Report, Reproduce, Verify
from landscape.cli.pixels import network_data
from landscape.paper import ledger
from landscape.paper import report as reports
from landscape.paper import reproduce as pipeline
from landscape.paper import verify as verification
from landscape.paper.settings import CELEBA, MNIST, QUICK, SMOKE, Settings
from linvae_jax._internal import checks


def settings(options: Reproduce) -> Settings:
    """Return what is computed: a preset, and what the user takes in place of its numbers."""
    if options.full and options.smoke:
        checks.fail("smoke", "with --full", "one of them")
    colour = options.full and options.data.data in ("celeba", "photographs")
    networks = CELEBA if colour else MNIST if options.full else SMOKE if options.smoke else QUICK
    names = {"epochs": "epochs", "network_batch": "batch_size", "network_seeds": "seeds",
             "other_seeds": "other_seeds"}  # fmt: skip
    for given, name in names.items():
        if (value := getattr(options, given)) is not None:
            checks.in_range(given, value, 1, 2**31 - 1, "at least one")
            networks = replace(networks, **{name: value})
    if not options.curvature:
        networks = replace(networks, curvature_data=0)
    if not options.protocols:
        networks = replace(networks, protocols=())
    linear = options.settings
    linear = linear.full() if options.full else linear.smoke() if options.smoke else linear
    return Settings(
        None if colour else linear,  # colour images are too large for what is exact
        replace(networks, other_seeds=min(networks.other_seeds, networks.seeds)),
        "full" if options.full else "smoke" if options.smoke else "quick",
    )


def reproduce(options: Reproduce) -> int:
    """Run all stages; exit with 1 if a claim does not hold."""
    chosen, computed = options.data, settings(options)
    distinct("latents", options.settings.latents)
    if chosen.data == "auto":
        chosen = replace(chosen, data="mnist" if options.full else "digits")
    x = None
    if computed.linear is not None:
        x = real_data(replace(chosen, window=None)).x
    images = network_data(chosen)
    attrs = text.attrs(options, images.source)
    claims = pipeline.run(computed, images, options.out, x=x, attrs=attrs)
    return _told(claims, options.out, options.smoke)


def report(options: Report) -> int:
    """Judge the claims of a folder, draw figures, write; exit with 1 if a claim does not hold."""
    return _told(reports.write(options.folder), options.folder)


def verify(options: Verify) -> int:
    """Check a folder of results, or list the numbers by name; exit with 1 if something differs."""
    if options.names:
        for name, value in verification.numbers(options.folder).items():
            print(f"{value:<24.10g}{name}")
        return 0
    begin = time.monotonic()
    try:
        checked = verification.folder(options.folder, options.pages)
    except verification.Differs as error:
        print(f"linvae verify: {error}", file=sys.stderr)
        return 1
    print(
        f"{checked.numbers:,} numbers in {checked.files} files are what {checked.tables} tables "
        f"say ({time.monotonic() - begin:.1f} s)."
    )
    return 0


def _told(claims: Sequence[ledger.Claim], folder: Path, smoke: bool = False) -> int:
    """Print the ledger; return 1 if a claim does not hold that should."""
    print("\n" + ledger.text(claims))
    print(f"\nreport.html, report.md, figures, tables and the ledger are in {folder}/")
    failed = [claim.id for claim in claims if not claim.holds]
    if failed:
        print(f"DOES NOT HOLD: {', '.join(failed)}", file=sys.stderr)
    if smoke:
        failed = [name for name in failed if name not in {"C7", "C8", "C9", "C10"}]
    return int(bool(failed))
