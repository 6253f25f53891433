"""Results are labelled: xarray data sets with units and provenance, in netCDF files.

A result reloads in one line, `tables.load(path)`, and also with any netCDF reader
(`xarray.open_dataset(path)`).
"""

import json
import platform
from collections.abc import Collection, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import jax
import netCDF4
import numpy as np
import xarray as xr
from xarray.backends import NetCDF4DataStore

from linvae_jax import linear
from linvae_jax import moments as mom
from linvae_jax._internal import checks, version, whole_files

# attribute that tells our files from other people's
_FORMAT = "linvae_jax"


def plain(value: Any) -> Any:
    """Make a configuration what JSON can hold.

    Dataclasses, mappings, sequences and scalars may be nested; anything else becomes text.
    Dataclasses keep their names, because two kinds may have the same fields.
    """
    if is_dataclass(value) and not isinstance(value, type):
        own = {f.name: plain(getattr(value, f.name)) for f in fields(value)}
        return {"kind": type(value).__name__} | own
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | range):
        return [plain(v) for v in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def provenance(config: Any = None, **extra: Any) -> dict[str, str]:
    """Return attributes that say where numbers come from: versions, device, configuration.

    `config`, a dataclass or mapping of plain values, is stored as JSON; further facts are stored as
    text. A further fact that has the name of one of the others raises `ValueError`.
    """
    facts = {
        "format": _FORMAT,
        "linvae_jax": version.own(),
        "jax": jax.__version__,
        "python": platform.python_version(),
        "device": jax.devices()[0].device_kind,
        "float": str(np.dtype(jax.numpy.result_type(float))),
    }
    if config is not None:
        facts["config"] = json.dumps(plain(config), sort_keys=True)
    for name in extra:
        if name in facts:
            checks.fail("extra", f"a fact called {name!r}", f"other names than {list(facts)}")
    return facts | {name: str(value) for name, value in extra.items()}


def dataset(
    variables: Mapping[str, tuple[Any, ...]],
    coords: Mapping[str, Any] | None = None,
    attrs: Mapping[str, str] | None = None,
) -> xr.Dataset:
    """Make a labelled data set.

    Args:
        variables: name → (dimensions, values, unit, description).
        coords: dimension → labels, or → (values, unit, description).
        attrs: usually `provenance(...)`.
    """

    def described(dims: Any, values: Any, unit: str, text: str) -> tuple[Any, ...]:
        return dims, np.asarray(values), {"units": unit, "long_name": text}

    return xr.Dataset(
        {name: described(*variable) for name, variable in variables.items()},
        coords={
            name: described(name, *value) if isinstance(value, tuple) else np.asarray(value)
            for name, value in (coords or {}).items()
        },
        attrs={"format": _FORMAT} | dict(attrs or {}),
    )


def check_attrs(name: str, attrs: Any, taken: Collection[str] = ()) -> None:
    """Raise `ValueError` for attributes that a netCDF file would not give back.

    Refused are what is no mapping; a name that is no text, that netCDF keeps for itself, or that is
    in `taken`; a value that is no text, number or list of them, such as None, a bool, a path. The
    message calls the attributes `name`.
    """
    if not isinstance(attrs, Mapping):
        checks.fail(name, type(attrs).__name__, "a mapping of names to texts and numbers")
    for key, value in attrs.items():
        got = f"{value!r:.100}"
        if key in taken:
            checks.fail(f"{name}[{key!r}]", got, f"another name than {sorted(taken)}")
        if trouble := _trouble(key, value):
            checks.fail(
                f"{name}[{key!r}]", got, "a text, a number or a list of them, with a name of its "
                f"own, for netCDF keeps nothing else ({trouble})",
            )  # fmt: skip


def _trouble(key: Any, value: Any) -> str:
    """Say why an attribute does not survive a file, found by trying; "" if it does."""
    try:
        # with a variable, for some names are taken only where there is one
        back = _read(_written(xr.Dataset({"x": ("y", [0.0])}, attrs={key: value}))).attrs.get(key)
    except Exception as error:  # xarray and netCDF4 each raise their own
        return str(error).splitlines()[0][:200]
    wrote, read = np.asarray(value), np.asarray(back)
    alike = wrote.dtype.kind == read.dtype.kind and wrote.shape == read.shape
    if isinstance(value, list | tuple):  # numbers among texts come back as texts
        alike = alike and len({isinstance(part, str) for part in value}) < 2
    if not alike or not np.all((wrote == read) | (wrote != wrote)):  # NaN is not itself
        return f"it would come back as {back!r:.100}"
    return ""


def _written(data: xr.Dataset) -> memoryview:
    """Return the bytes of a netCDF file."""
    file = netCDF4.Dataset("in memory", mode="w", memory=1)  # a size to begin with, in bytes
    data.dump_to_store(NetCDF4DataStore(file))
    return file.close()  # which gives them, and where this is not reached its end closes it


def _read(content: bytes | memoryview) -> xr.Dataset:
    with netCDF4.Dataset("in memory", memory=content) as file:
        return xr.open_dataset(NetCDF4DataStore(file)).load()


def save(data: xr.Dataset, path: str | Path) -> Path:
    """Write a data set as netCDF, whole or not at all.

    Raises:
        ValueError: a path that is a folder or below a file; something else than a data set, or
            one with attributes that netCDF cannot keep, before anything is written.
        OSError: it cannot be written, e.g. the disk is full. What was there stays.
    """
    checks.kind("data", data, xr.Dataset)
    path = checks.path("path", path)
    if path.is_dir():
        checks.fail("path", f"{path}, which is a folder", "a file, new or to be replaced")
    # in memory first: on a disk that fills up HDF5 raises errors of its own, or crashes
    try:
        content = _written(data)
    except Exception:  # nothing says which attribute it was
        for name, part in {"data": data, **data.variables}.items():
            check_attrs(f"{name}.attrs", part.attrs)
        raise
    return whole_files.write(path, content)


def load(path: str | Path) -> xr.Dataset:
    """Read a data set that `save` wrote, into memory.

    Raises:
        ValueError: no path, no such file, truncated, not netCDF, or written by something else.
        OSError: no permission, or too many files open.
        MemoryError: too little left.
    """
    path = checks.path("path", path)
    if not path.is_file():
        checks.fail("path", f"{path} (no such file)", "a netCDF file written by linvae_jax")
    content = path.read_bytes()  # what fails here says nothing of the file
    try:
        loaded = _read(content)
    except MemoryError:
        raise
    except Exception as error:  # each way of being broken raises another type
        raise ValueError(
            f"path: {path} is not a readable netCDF file ({type(error).__name__}: {error}), "
            "expected one written by linvae_jax. It may be truncated; compute it again."
        ) from error
    if loaded.attrs.get("format") != _FORMAT:
        checks.fail("path", f"{path}, a netCDF file of another origin", "one of linvae_jax")
    return loaded


def from_linear(
    params: linear.LinearVAEParams, moments: mom.Moments, attrs: Mapping[str, str] | None = None
) -> xr.Dataset:
    """Make a labelled data set of a linear VAE and the mean of its data."""
    return dataset(
        {
            "W": (("feature", "latent"), params.W, "data unit", "decoder weights"),
            "V": (("latent", "feature"), params.V, "1/data unit", "encoder weights"),
            "log_d": (("latent",), params.log_d, "1", "log posterior variance"),
            "log_sigma2": ((), params.log_sigma2, "1", "log observation noise variance"),
            "mean": (("feature",), moments.mean, "data unit", "data mean"),
        },
        attrs=attrs,
    )


def to_linear(data: xr.Dataset) -> linear.LinearVAEParams:
    """Return the linear VAE of a data set by `from_linear`; raise `ValueError` for another one."""
    if missing := [name for name in linear.NAMES if name not in data]:
        checks.fail("data", f"a data set without {missing}", f"the variables {list(linear.NAMES)}")
    return linear.LinearVAEParams(*(jax.numpy.asarray(data[name].values) for name in linear.NAMES))
