"""Compiled programs are kept between calls, because a short command mostly waits for compiling.

JAX keeps them; here they get a folder, `linvae-jax` in the user's cache, and a bound. JAX's own
variables win: JAX_COMPILATION_CACHE_DIR names another folder, which has no bound of ours, and
JAX_ENABLE_COMPILATION_CACHE=0 keeps nothing.
"""

import os
import warnings
from contextlib import suppress
from pathlib import Path

import jax

# bytes; see `prune`
MOST = 2**26


def keep() -> None:
    """Let JAX keep the programs of this process, where there is a folder for them."""
    if not jax.config.jax_enable_compilation_cache:  # pyright: ignore[reportAttributeAccessIssue]
        return
    if jax.config.jax_compilation_cache_dir is None:  # pyright: ignore[reportAttributeAccessIssue]
        try:
            folder = _folder()
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # JAX runs what lies there
            prune(folder)
        except (OSError, RuntimeError):  # no home, or not ours to write
            return
        if not os.access(folder, os.W_OK | os.X_OK):
            return
        jax.config.update("jax_compilation_cache_dir", str(folder))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        # hundreds of small ones take seconds together; JAX would keep those of a second or more
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    # a disk that is full, a file half written by another process: it is compiled again
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache entry")


def _folder() -> Path:
    """Return the folder by the convention of XDG, which ignores relative paths."""
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (given if given.is_absolute() else Path.home() / ".cache") / "linvae-jax"


def prune(folder: Path) -> None:
    """Remove the oldest files of a folder that holds more than `MOST`, until it holds half.

    JAX has a bound of its own, which looks at every file for each program that it adds: for
    thousands of small ones that takes longer than to compile them.
    """
    with os.scandir(folder) as entries:
        files = sorted(
            (entry.stat().st_mtime, entry.stat().st_size, entry.path)
            for entry in entries
            if entry.is_file()
        )
    left = sum(size for _, size, _ in files)
    if left <= MOST:
        return
    for _, size, path in files:
        if left <= MOST // 2:
            break
        with suppress(OSError):  # another command was faster
            os.unlink(path)
        left -= size
