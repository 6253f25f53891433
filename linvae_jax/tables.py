"""Labelled results: xarray data sets with units and provenance, in netCDF files.

A result reloads in one line, `tables.load(path)`, and also with any netCDF reader
(`xarray.open_dataset(path, engine="h5netcdf")`).
"""

import errno
import io
import json
import platform
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import xarray as xr

from linvae_jax import _checks, _version, linear
from linvae_jax import moments as mom

# attribute that tells our files from other people's
_FORMAT = "linvae_jax"
# what fails so says nothing of the file
_NOT_THE_FILE = (errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.EIO)


def plain(value: Any) -> Any:
    """A configuration as JSON can hold it; dataclasses with their names, since two kinds may agree.

    Args:
        value: nested dataclasses, mappings, sequences and scalars; anything else becomes text.
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
    """Attributes that say where numbers come from: versions, device, precision, configuration.

    Args:
        config: a dataclass or mapping of plain values, stored as JSON.
        **extra: further facts, stored as text.

    Raises:
        ValueError: an extra fact that has the name of one of the others.
    """
    facts = {
        "format": _FORMAT,
        "linvae_jax": _version.own(),
        "jax": jax.__version__,
        "python": platform.python_version(),
        "device": jax.devices()[0].device_kind,
        "float": str(np.dtype(jax.numpy.result_type(float))),
    }
    if config is not None:
        facts["config"] = json.dumps(plain(config), sort_keys=True)
    for name in extra:
        if name in facts:
            _checks.fail("extra", f"a fact called {name!r}", f"other names than {list(facts)}")
    return facts | {name: str(value) for name, value in extra.items()}


def _described(unit: str, text: str) -> dict[str, str]:
    return {"units": unit, "long_name": text}


def dataset(
    variables: Mapping[str, tuple[Any, ...]],
    coords: Mapping[str, Any] | None = None,
    attrs: Mapping[str, str] | None = None,
) -> xr.Dataset:
    """A labelled data set.

    Args:
        variables: name → (dimensions, values, unit, description).
        coords: dimension → labels, or → (values, unit, description).
        attrs: usually `provenance(...)`.
    """
    built = {}
    for name, value in (coords or {}).items():
        if isinstance(value, tuple):
            values, unit, text = value
            built[name] = xr.DataArray(np.asarray(values), dims=name, attrs=_described(unit, text))
        else:
            built[name] = xr.DataArray(np.asarray(value), dims=name)
    return xr.Dataset(
        {
            name: xr.DataArray(np.asarray(values), dims=dims, attrs=_described(unit, text))
            for name, (dims, values, unit, text) in variables.items()
        },
        coords=built,
        attrs={"format": _FORMAT} | dict(attrs or {}),
    )


def check_attrs(name: str, attrs: Any, taken: Collection[str] = ()) -> None:
    """Raise `ValueError` for attributes that a netCDF file would not give back.

    Args:
        name: what the message calls them.
        attrs: name → text, number, or list of them.
        taken: names that are kept for other facts.

    Raises:
        ValueError: no mapping; a name that is no text, or is taken here or in netCDF; a value
            such as None, a bool, a dictionary, a path. The message has the attribute's name.
    """
    if not isinstance(attrs, Mapping):
        _checks.fail(name, type(attrs).__name__, "a mapping of names to texts and numbers")
    for key, value in attrs.items():
        got = f"{value!r:.100}"
        if key in taken:
            _checks.fail(f"{name}[{key!r}]", got, f"another name than {sorted(taken)}")
        if trouble := _trouble(key, value):
            _checks.fail(
                f"{name}[{key!r}]", got, "a text, a number or a list of them, with a name of its "
                f"own, for netCDF keeps nothing else ({trouble})",
            )  # fmt: skip


def _trouble(key: Any, value: Any) -> str:
    """Why an attribute does not survive a file, found by trying; "" if it does."""
    buffer = io.BytesIO()
    try:
        # with a variable, for some names are taken only where there is one
        xr.Dataset({"x": ("y", [0.0])}, attrs={key: value}).to_netcdf(buffer, engine="h5netcdf")
        with xr.open_dataset(io.BytesIO(buffer.getvalue()), engine="h5netcdf") as data:
            back = data.attrs.get(key)
    except Exception as error:  # xarray, h5netcdf and h5py each raise their own
        return str(error).splitlines()[0][:200]
    wrote, read = np.asarray(value), np.asarray(back)
    alike = wrote.dtype.kind == read.dtype.kind and wrote.shape == read.shape
    if not alike or not np.all((wrote == read) | (wrote != wrote)):  # NaN is not itself
        return f"it would come back as {back!r:.100}"
    return ""


def save(data: xr.Dataset, path: str | Path) -> Path:
    """Write a data set as netCDF, whole or not at all.

    Raises:
        ValueError: a path that is a folder or below a file; something else than a data set, or
            one with attributes that netCDF cannot keep, before anything is written.
        OSError: it cannot be written, e.g. the disk is full. What was there stays.
    """
    _checks.kind("data", data, xr.Dataset)
    path = _checks.path("path", path)
    if path.is_dir():
        _checks.fail("path", f"{path}, which is a folder", "a file, new or to be replaced")
    # in memory first: on a disk that fills up HDF5 raises errors of its own, or crashes
    buffer = io.BytesIO()
    try:
        data.to_netcdf(buffer, engine="h5netcdf")
    except Exception:  # nothing says which attribute it was
        for name, part in {"data": data, **data.variables}.items():
            check_attrs(f"{name}.attrs", part.attrs)
        raise
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(buffer.getvalue())  # no view of it outlives an error
        partial.replace(path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise OSError(error.errno, f"{path} could not be written: {error.strerror}") from error
    return path


def load(path: str | Path) -> xr.Dataset:
    """Read a data set that `save` wrote, into memory.

    Raises:
        ValueError: no path, no such file, truncated, not netCDF, or written by something else.
        OSError: no permission, or too many files open.
        MemoryError: too little left.
    """
    path = _checks.path("path", path)
    if not path.is_file():
        _checks.fail("path", f"{path} (no such file)", "a netCDF file written by linvae_jax")
    try:
        with xr.open_dataset(path, engine="h5netcdf") as data:
            loaded = data.load()
    except Exception as error:  # h5py raises a different type for each way of being broken
        if isinstance(error, MemoryError) or getattr(error, "errno", None) in _NOT_THE_FILE:
            raise
        raise ValueError(
            f"path: {path} is not a readable netCDF file ({type(error).__name__}: {error}), "
            "expected one written by linvae_jax. It may be truncated; compute it again."
        ) from error
    if loaded.attrs.get("format") != _FORMAT:
        _checks.fail("path", f"{path}, a netCDF file of another origin", "one of linvae_jax")
    return loaded


def from_linear(
    params: linear.LinearVAE, moments: mom.Moments, attrs: Mapping[str, str] | None = None
) -> xr.Dataset:
    """A linear VAE and the mean of its data as a labelled data set."""
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


def to_linear(data: xr.Dataset) -> linear.LinearVAE:
    """The linear VAE of a data set made by `from_linear`.

    Raises:
        ValueError: a variable is missing.
    """
    names = ("W", "V", "log_d", "log_sigma2")
    missing = [name for name in names if name not in data]
    if missing:
        _checks.fail("data", f"a data set without {missing}", f"the variables {list(names)}")
    return linear.LinearVAE(*(jax.numpy.asarray(data[name].values) for name in names))
