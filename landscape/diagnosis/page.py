"""The page of a diagnosis is one HTML file; its figures and labelled data lie beside it."""

from pathlib import Path

import xarray as xr

from landscape.diagnosis import words
from landscape.figures import formats, style, waterline
from linvae_jax import tables
from linvae_jax._internal import checks

# what a folder of a diagnosis has in it
NAMES = ("diagnosis.html", "diagnosis.nc", "waterline.png", "collapse.png")

_WATERLINE = (
    "Below: eigenvalues of the data from large to small, and the level that the loss sets, as "
    "water. What rises above it is worth a latent. Above: the KL of each latent over the component "
    "of its rank, against that of the best linear VAE."
)
_COLLAPSE = (
    "The share of data that a latent tells less than ε nats of. A latent is collapsed where the "
    "share is at least 0.99 at ε = 0.01."
)


def write(
    table: xr.Dataset, folder: str | Path, title: str = "Why do the latents collapse?"
) -> Path:
    """Write a diagnosis into a folder; return the path of the page.

    The page has its figures inside. Beside it lie the figures (PNG and PDF) and `diagnosis.nc`,
    which `tables.load` reads.

    Raises:
        ValueError: the folder is a file.
    """
    folder = checks.folder("folder", folder)
    folder.mkdir(parents=True, exist_ok=True)
    tables.save(table, folder / "diagnosis.nc")
    parts = [f"# {title}", ""]
    for section in words.sections(table):
        parts += [f"## {section.heading}", "", *(f"{text}\n" for text in section.sentences)]
        if section.heading == words.WEIGHTS:
            style.save(waterline.waterline(table), folder / "waterline")
            parts.append(formats.figure("waterline", _WATERLINE))
        if section.rows:
            parts.append(formats.table(section.headings, section.rows))
    if "kl" in table:
        style.save(waterline.collapse(table), folder / "collapse")
        parts += ["## Collapse over ε", "", formats.figure("collapse", _COLLAPSE)]
    made = f"By linvae-jax {table.attrs['linvae_jax']}, jax {table.attrs['jax']}"
    if "command" in table.attrs:
        made += f", with `{table.attrs['command']}`"
    parts += ["## How it was made", "", f"{made}. The numbers are in diagnosis.nc."]
    path = folder / "diagnosis.html"
    path.write_text(formats.page("\n".join(parts), folder), encoding="utf-8")
    return path
