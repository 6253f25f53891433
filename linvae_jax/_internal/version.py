"""The package knows its version, as it is installed."""

from importlib.metadata import PackageNotFoundError, version


def own() -> str:
    """Return a version such as "0.1.0"; "source tree" where it was never installed."""
    try:
        return version("linvae-jax")
    except PackageNotFoundError:
        return "source tree"
