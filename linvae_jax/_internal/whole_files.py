"""A file is there whole or not at all, whenever a process is killed."""

from contextlib import suppress
from pathlib import Path


def write(path: Path, content: bytes | memoryview) -> Path:
    """Write a file beside its place, then put it there; if that fails, what was there stays."""
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(content)
        partial.replace(path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise OSError(error.errno, f"{path} could not be written: {error.strerror}") from error
    return path
