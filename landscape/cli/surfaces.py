"""`linvae surface` and `linvae landscape` draw the loss surface of the data's spectrum."""

import numpy as np

from landscape.cli import text
from landscape.cli.data import distinct, learnable, real_data
from landscape.cli.options import Landscape, Surface
from landscape.figures import linear as linear_figures
from landscape.figures import style
from landscape.studies import identity
from landscape.studies import landscape as study
from landscape.studies import surface as plane
from linvae_jax import moments as mom
from linvae_jax import tables
from linvae_jax._internal import checks


def surface(options: Surface) -> int:
    """Compute, save, draw."""
    distinct("sigma2", options.sigma2)
    checks.positive("sigma2", options.sigma2)
    x, _, source, of_data = real_data(options.data)
    moments = mom.from_data(x)
    lam = mom.spectrum(moments).eigenvalues
    pair = (options.components[0] - 1, options.components[1] - 1)
    if not 0 <= pair[0] < pair[1] < len(lam):
        checks.fail("components", options.components, f"1 <= first < second <= n = {len(lam)}")
    rank = int(mom.rank(lam, moments.count))
    if pair[1] >= rank:
        checks.fail(
            "components", options.components, f"directions in which data vary, 1 to {rank}",
            "Their covariance has no more.",
        )  # fmt: skip
    settings = of_data | text.chosen(options, "components", "sigma2")
    written = options.out.with_name(options.out.name + ".nc")
    identity.check_file(written, settings)
    sigma2 = options.sigma2 or plane.sigma2_around(lam, pair)
    table = plane.zero_column(lam, sigma2, pair).assign_attrs(text.attrs(options, source))
    saved = [tables.save(identity.signed(table, settings), written)]
    saved += style.save(linear_figures.stationary_surface(table), options.out)
    print("\n".join(f"saved {path}" for path in saved))
    return 0


def landscape(options: Landscape) -> int:
    """Study, save, draw, and print the critical σ² and escapes."""
    if options.sigma2 is not None:
        checks.positive("sigma2", options.sigma2)
    x, _, source, of_data = real_data(options.data)
    moments = mom.from_data(x)
    lam = mom.spectrum(moments).eigenvalues
    # also where σ² is given: it follows the first k components
    best = learnable(lam, moments.count, options.k, "Take a smaller --k, or more data.")
    sigma2 = best if options.sigma2 is None else options.sigma2
    checks.in_range("k", options.k, 3, len(lam) - 1, "three components to follow")
    settings = of_data | text.chosen(options, "k", "sigma2")
    identity.claim_folder(options.out, "landscape", settings, ("landscape_*",))

    found = study.study(lam, options.k, sigma2)
    study.save(found, options.out, text.attrs(options, source))
    collapsed = found.conditioning.sel(pattern="all collapsed")
    print("total collapse, all latents at zero:")
    rows = [["σ²", "index", "escape rate", "stiffness", "steps to grow by e", "of data x/√λ₁"]]
    for i in np.linspace(0, collapsed.sizes["sigma2"] - 1, 8).astype(int):
        at = collapsed.isel(sigma2=i)
        shown = (at.escape_rate, at.stiffness, at.escape_steps, at.unit_free_escape_steps)
        numbers = [f"{float(value):.4g}" for value in shown]
        rows.append([f"{float(at.sigma2):.4g}", f"{int(at['index']):,}", *numbers])
    print("\n".join(text.columns(rows)))
    print("critical σ² (beyond it no latent can use the component), escape at a tenth of it:")
    for component in found.escapes.component.values:
        at = found.escapes.sel(component=component)
        steps = float(at.predicted_steps.sel(fraction=0.1))
        print(f"  component {component:>4}: {float(at.eigenvalue):.6g}, {steps:.4g} steps")
    census = found.census
    print(
        f"census of 3 latents on the {found.leading} leading components: "
        f"{census.sizes['type']} types, "
        f"{int(census.mixed.sum())} of them mixed, {int((census['index'] == 0).sum())} maximum"
    )
    print(f"figures and tables are in {options.out}/")
    return 0
