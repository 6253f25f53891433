"""Was a claim measured at the size of the paper's own measurement? The rule stands here.

| claims | the paper's size | why |
| --- | --- | --- |
| C1 to C5 | any | they are mathematics |
| C6 | MNIST, 60,000 images | the paper shows it on the spectrum of MNIST |
| C7 | the authors' notebook, all its steps | 1,000 images of MNIST, 200 latents |
| C8 to C10 | MNIST, 60,000 images, 200 latents; CelebA, 162,770, 500 | the paper's table |

For how long the paper trained its networks is not known, so it is no part of the rule. Each
function says in words what is smaller, or "" where nothing is.
"""

from typing import NamedTuple

import xarray as xr

from landscape.paper import facts
from landscape.paper.linear import notebook


class Size(NamedTuple):
    """These are the images and the latents of one data set in the paper's table."""

    name: str
    images: int
    latents: int


PAPER = {"mnist": Size("MNIST", 60_000, 200), "celeba": Size("CelebA", 162_770, 500)}


def of_spectrum(table: xr.Dataset) -> str:
    """Compare the data of C6's table with MNIST."""
    origin, paper = facts.origin(table), PAPER["mnist"]
    if facts.paper_data(origin.source) == "mnist" and origin.count >= paper.images:
        return ""
    return f"{origin.count:,} data; the paper has {paper.images:,} of {paper.name}"


def of_notebook(table: xr.Dataset | None) -> str:
    """Say, for C7, whether the authors' notebook was run with all its steps, if at all."""
    paper = notebook.PRINTED
    if table is not None and int(table.step[-1]) >= paper.num_steps:
        return ""
    return (
        f"the authors' notebook, {paper.count:,} images of MNIST and {paper.k} latents, was not "
        f"run with its {paper.num_steps:,} steps"
    )


def of_networks(table: xr.Dataset) -> str:
    """Compare data and latents of the table of networks with the paper's."""
    origin, k = facts.origin(table), table.sizes["latent"]
    data = facts.paper_data(origin.source)
    papers = [PAPER[data]] if data else list(PAPER.values())
    if data and origin.count >= papers[0].images and k >= papers[0].latents:
        return ""
    told = (f"{paper.images:,} of {paper.name} with {paper.latents}" for paper in papers)
    return f"{origin.count:,} data with {k} latents; the paper has {', or '.join(told)}"
