"""`linvae diagnose`: why do the latents of my VAE collapse?"""

import textwrap
from pathlib import Path
from typing import Any

import numpy as np

from landscape.cli import text
from landscape.cli.data import seed
from landscape.cli.options import Diagnose
from landscape.diagnosis import labelled, losses, page, words
from landscape.studies import identity
from linvae_jax._internal import checks
from linvae_jax.data import datasets, files

_SHOWN = 12  # rows of a table on the terminal
_LOSS = (
    "reconstruction", "kl", "kl_weight", "sigma2", "error_over_batch", "kl_over_batch",
    "batch_size",
)  # fmt: skip


def diagnose(options: Diagnose) -> int:
    """Read, diagnose, print, and write the page."""
    seed("seed", options.seed)
    if options.data is None and options.codes is None:
        checks.fail("data", "none, and no --codes", "data, codes or both")
    if options.data is not None and options.reconstruction is None:
        hint = "nn.MSELoss() is mean-squared-error; linvae diagnose --help lists all."
        checks.fail("reconstruction", "none", "the error in your loss", hint)
    loss = _loss(options)
    settings = text.chosen(options, *_LOSS, "preprocess", "k", "seed")
    x, source, notes = None, "", []
    if options.data is not None:
        x, source, notes = _data(options)
        settings["data"] = source
    codes = {}
    if options.codes is not None:
        codes, digest, more = _codes(options.codes)
        settings["codes"], notes = digest, notes + more
        if x is None and text.chosen(options, *_LOSS) != text.chosen(Diagnose(), *_LOSS):
            notes.append("Without --data nothing is told of the loss: its options were not used.")
        if x is None and codes.pop("reconstruction", None) is not None:
            notes.append("Without --data nothing is told of the reconstructions.")
    if options.out is not None:
        identity.claim_folder(options.out, "diagnose", settings, page.NAMES)
    if codes:
        shape = np.shape(codes["mean"])
        if len(shape) == 2 and options.k not in (None, shape[1]):
            checks.fail("k", options.k, f"{shape[1]}, as the codes have, or none")
        table = labelled.of_codes(
            **codes, x=x, loss=None if x is None else loss,
            seed=options.seed,
        )  # fmt: skip
    else:
        if options.k is None:
            checks.fail("k", "none, and no --codes", "the number of latents")
        assert loss is not None
        table = labelled.of_data(x, loss, options.k)
    table.attrs["notes"] = "\n".join(filter(None, [*notes, table.attrs["notes"]]))
    table.attrs |= text.attrs(options, source)
    for section in words.sections(table):
        _print(section)
    if options.out is not None:
        print(f"\npage: {page.write(table, options.out)}")
    return 0


def _loss(options: Diagnose) -> losses.Loss | None:
    if options.reconstruction is None:
        return None
    return losses.Loss(
        options.reconstruction, options.kl, options.kl_weight, options.sigma2,
        options.error_over_batch, options.kl_over_batch, options.batch_size,
    )  # fmt: skip


def _data(options: Diagnose) -> tuple[Any, str, list[str]]:
    """Load data, as (N, ...), the place they come from, and what was done to them."""
    assert options.data is not None
    path = Path(options.data).expanduser()
    if path.suffix in files.MAGIC:
        x, source = files.load_array(path)
    else:
        dataset = datasets.load(options.data)
        x, source = dataset.images, dataset.source
    counts = options.reconstruction in ("poisson", "mean-poisson")
    unit = options.preprocess == "unit" or (
        options.preprocess == "auto" and x.dtype == np.uint8 and not counts
    )
    notes = []
    if unit:
        x = x / np.float32(255)
        notes.append("The data were divided by 255 (--preprocess none leaves them as they are).")
    return x, source, notes


# names in a file of codes → the argument they are, and what makes them that
_NAMES = {
    "mean": ("mean", None), "mu": ("mean", None),
    "log_var": ("log_var", None), "logvar": ("log_var", None), "log_variance": ("log_var", None),
    "var": ("log_var", 1.0), "variance": ("log_var", 1.0),
    "std": ("log_var", 2.0), "sigma": ("log_var", 2.0),
    "reconstruction": ("reconstruction", None), "recon": ("reconstruction", None),
    "x_hat": ("reconstruction", None), "log_sigma2": ("log_sigma2", None),
}  # fmt: skip


def _codes(path: Path) -> tuple[dict[str, Any], str, list[str]]:
    """Read a file of codes: arguments of `of_codes`, its checksum, and what was made of it."""
    arrays, digest = files.load_named(path)
    found: dict[str, Any] = {}
    notes = []
    for name, array in arrays.items():
        if name.lower() not in _NAMES:
            notes.append(f"{name!r} in {path.name} is nothing that is read here.")
            continue
        target, power = _NAMES[name.lower()]
        if target in found:
            checks.fail("codes", f"{target!r} twice, as {name!r} too", "each once")
        if power is not None:
            checks.positive(name, array)
            array = power * np.log(array.astype(np.float64))
            notes.append(f"log_var was made of {name!r}: {power:g} log({name}).")
        found[target] = array
    for name in ("mean", "log_var"):
        if name not in found:
            checks.fail("codes", f"arrays {sorted(arrays)}", f"one named {name}")
    if "log_sigma2" in found:
        checks.shape("log_sigma2", found["log_sigma2"], ())
        found["log_sigma2"] = float(found["log_sigma2"])
    return found, digest, notes


def _print(section: words.Section) -> None:
    print(f"\n{section.heading.upper()}")
    for sentence in section.sentences:
        print(textwrap.fill(sentence, 100))
    if section.rows:
        names = [name.removesuffix(":") for name in section.headings]
        words_of = [i for i, name in enumerate(section.headings) if not name.endswith(":")]
        print("\n".join(text.columns([names, *section.rows[:_SHOWN]], words_of)))
        if len(section.rows) > _SHOWN:
            print(f"… and {len(section.rows) - _SHOWN} more (--out DIR writes all)")
