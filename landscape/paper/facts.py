"""What a table says of itself, as typed values: its attributes are written and read here.

A netCDF file keeps them as texts, one of which, `config`, is what was trained as JSON.
"""

import json
import re
from dataclasses import dataclass

import xarray as xr


@dataclass(frozen=True)
class Origin:
    """Where the numbers of a table come from; what was not recorded is empty.

    `source` is the data set in words, `count` the number of data, and `pixel_constant` the nats per
    datum that turn an ELBO into one of pixels.
    """

    source: str
    command: str
    device: str
    versions: str
    seconds: float | None
    count: int
    pixel_constant: float


@dataclass(frozen=True)
class Training:
    """How the networks of a table were trained.

    `widths` are those of the encoder's hidden layers, or channels of the convolutions. Of several
    learning rates the first is given.
    """

    network: str
    widths: tuple[int, ...]
    k: int
    batch_size: int
    num_steps: int
    optimizer: str
    learning_rate: float


def attributes(pixel_constant: float, count: int | None = None) -> dict[str, str]:
    """Return the attributes from which `origin` reads the constant and the number of data."""
    known = {"pixel_constant": pixel_constant, "count": count}
    return {name: str(value) for name, value in known.items() if value is not None}


def timed(table: xr.Dataset, seconds: float) -> xr.Dataset:
    """Return the table with the time that it took, which `origin` reads."""
    return table.assign_attrs(seconds=str(round(seconds)))


def origin(table: xr.Dataset) -> Origin:
    """Read where a table comes from."""
    known = table.attrs
    return Origin(
        known.get("source", "data"), known.get("command", "not recorded"), known.get("device", ""),
        f"linvae-jax {known.get('linvae_jax')}, jax {known.get('jax')}",
        float(known["seconds"]) if "seconds" in known else None, int(known.get("count", 0)),
        float(known.get("pixel_constant", 0.0)),
    )  # fmt: skip


def training(table: xr.Dataset) -> Training:
    """Read how the networks of a sweep's table were trained."""
    config = json.loads(table.attrs["config"])
    task, how, network = config["task"], config["config"], config["task"]["model"]
    return Training(
        network["kind"], tuple(network.get("encoder") or network["channels"]), network["k"],
        task["batch_size"], how["num_steps"], how["optimizer"],
        config["grid"]["learning_rate"][0],
    )  # fmt: skip


def steps_per_epoch(count: int, batch_size: int) -> int:
    """Return how many batches are an epoch of so many data; it is one at least."""
    return max(count // batch_size, 1)


def epochs(table: xr.Dataset) -> float:
    """Return for how many epochs the networks of a table were trained."""
    how = training(table)
    return how.num_steps * how.batch_size / origin(table).count


def numbers(table: xr.Dataset) -> dict[str, float]:
    """Name the settings of the table of the paper's rows, as the report states them.

    "table: images", "table: epochs", and so on.
    """
    of, how = origin(table), training(table)
    named = {
        "images": of.count, "seeds": table.sizes["seed"], "latents": how.k, "epochs": epochs(table),
        "batch size": how.batch_size, "steps": how.num_steps, "learning rate": how.learning_rate,
        "constant": of.pixel_constant,
    }  # fmt: skip
    layers = {f"layer {i} of the encoder": width for i, width in enumerate(how.widths, 1)}
    return {f"table: {name}": float(value) for name, value in (named | layers).items()}


def first_seed(table: xr.Dataset) -> str:
    """Return the text of a sweep's configuration as if it had the first of its seeds alone."""
    config = json.loads(table.attrs["config"])
    config["grid"]["seeds"] = config["grid"]["seeds"][:1]
    return json.dumps(config, sort_keys=True)


def on_pixel_scale(table: xr.Dataset) -> xr.Dataset:
    """Return a sweep's table with its ELBOs in nats per datum of pixels."""
    constant = origin(table).pixel_constant
    names = ("elbo", "final_elbo", "final_elbo_tuned", "final_linear_optimum")
    return table.assign({name: table[name] + constant for name in names if name in table})


def paper_data(source: str) -> str:
    """Return which of the paper's data sets these are, "mnist" or "celeba"; "" if neither."""
    found = re.match(r"(mnist|celeba) \d+\.\d", source)
    return found[1] if found else ""


def paper_data_of(table: xr.Dataset) -> str:
    """Return which of the paper's data sets a table is of; "" if neither."""
    return paper_data(origin(table).source)


def in_words(source: str) -> str:
    """Return what a sentence calls the data."""
    names = {"mnist": "the digits", "celeba": "the faces", "china.jpg": "the photographs"}
    named = re.search("|".join(names), source) if "sha256" not in source else None
    return names[named[0]] if named else "the data"
