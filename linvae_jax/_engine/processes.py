"""The processes of a sweep agree here; each of them calls these functions at the same point."""

from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils


def everywhere(values: Any) -> np.ndarray:
    """Return the values of every process, (processes, …)."""
    if jax.process_count() == 1:
        return np.asarray(values)[None]
    return np.asarray(multihost_utils.process_allgather(np.asarray(values)))


def anywhere(flag: bool) -> bool:
    """Return whether it is true in any process, so that what they decide, they decide together."""
    return bool(everywhere(flag).any())


def together(name: str) -> None:
    """Wait until every process has come here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def to_host(leaf: Any) -> np.ndarray:
    """Return a NumPy copy of an array, whole in every process."""
    if getattr(leaf, "is_fully_addressable", True):
        return np.array(leaf)
    return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))
