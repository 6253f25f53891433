"""`linvae points`: the stationary points that the spectrum of the data gives."""

from itertools import islice

import numpy as np

from landscape.cli import text
from landscape.cli.data import learnable, real_data
from landscape.cli.options import Points
from landscape.curvature import summaries
from landscape.points import stationary
from linvae_jax import moments as mom
from linvae_jax import ppca
from linvae_jax._internal import checks


def points(options: Points) -> int:
    """Enumerate and classify."""
    checks.in_range("limit", options.limit, 1, 2**31 - 1, "at least one")
    x, _, source, of_data = real_data(options.data)
    moments = mom.from_data(x)
    lam = mom.spectrum(moments).eigenvalues
    held = options.sigma2
    sigma2 = learnable(lam, moments.count, options.k) if held is None else held
    settings = of_data | text.chosen(options, "k", "sigma2", "limit")
    if options.out:
        # and with it xarray, which no list on a terminal needs
        from landscape.studies import identity

        identity.check_file(options.out, settings)
    total = stationary.count(lam, options.k, sigma2)
    every = stationary.assignments(lam, options.k, sigma2)
    assignments = np.array(list(islice(every, options.limit)))
    points = [stationary.point(lam, a, sigma2) for a in assignments]
    per_point = [float(stationary.value(p)) for p in points]
    index = [int(stationary.index(p)) for p in points]
    best = float(ppca.optimal_elbo(lam, options.k, sigma2))
    rates = [float(summaries.summarise(p).escape_rate) for p in points]
    print(f"{total:,} stationary points of pPCA, up to the order of latents; σ² = {sigma2:.6g}")
    rows = [("components, from 1 (-: collapsed)", "below optimum", "index", "escape rate")]
    for a, value, i, rate in zip(assignments, per_point, index, rates, strict=True):
        name = " ".join("-" if c < 0 else str(c + 1) for c in a)
        rows.append((name, f"{best - value:.6g}", f"{i:,}", f"{rate:.6g}"))
    print("\n".join(text.columns(rows, left=[0])))
    if options.out:
        from landscape.studies import identity
        from linvae_jax import tables

        table = tables.dataset(
            {
                "assignment": (("point", "latent"), assignments, "1", "component from 0, or −1"),
                "value": ("point", per_point, "nats/datum", "ELBO"),
                "index": ("point", index, "1", "escape directions"),
                "escape_rate": ("point", rates, "nats", "fastest escape; 0: none"),
            },
            attrs=tables.provenance(options, sigma2=sigma2, optimum=best)
            | text.attrs(options, source),
        )
        print(f"saved {tables.save(identity.signed(table, settings), options.out)}")
    return 0
