"""The command `linvae`: parse, print the configuration, run.

| module | what |
| --- | --- |
| `options` | what each subcommand can be told; imports no JAX |
| `text` | flags, columns, the configuration in one line; likewise |
| `programs` | compiled programs, kept between calls |
| `data` | data for a linear VAE, and checks of options |
| `pixels` | data for networks |
| `fit`, `points`, `surfaces`, `sweep`, `paper` | what the subcommands do, imported when they run |
| `diagnose` | why do the latents of a user's VAE collapse? likewise |

Every run prints its configuration first, seed included; the same configuration gives the same
numbers on the same machine.
"""

import sys
from collections.abc import Sequence
from importlib import import_module

import tyro

from landscape.cli import options, text


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, print the configuration, run; exit with a status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if list(arguments) == ["--version"]:
        from linvae_jax._internal import version

        print(f"linvae {version.own()}")
        sys.exit(0)
    command = tyro.cli(
        options.Command,
        prog="linvae",
        description="Linear VAEs: exact ELBO, stationary points, and why latents collapse. "
        "`linvae --version` prints the version.",
        args=arguments,
    )
    print(text.shown(command), flush=True)
    sys.exit(_started(command))


def _started(command: options.Command) -> int:
    """Run a command and return its status; what it was told wrong becomes one line."""
    import jax  # a second, which nobody waits for who asked for help

    from landscape.cli import programs

    jax.config.update("jax_enable_x64", True)
    programs.keep()
    name = type(command).__name__.lower()
    try:
        return run(command)
    except (ValueError, ImportError, OSError, MemoryError) as error:
        told = " ".join(text.as_flags(str(error), command).split())  # in one line
        print(f"linvae {name}: error: {told}", file=sys.stderr)
        return 2
    except Exception as error:
        from linvae_jax.sweeps import Stopped  # imported where there is one

        if not isinstance(error, Stopped):
            raise
        print(f"linvae {name}: {error}", file=sys.stderr)
        return 128 + error.by


# where the functions are that are not in a module of their name
_MODULES = {"surface": "surfaces", "landscape": "surfaces",
            "reproduce": "paper", "report": "paper", "verify": "paper"}  # fmt: skip


def run(command: options.Command) -> int:
    """Import what a command does, and do it; return 1 where it says that something is amiss."""
    name = type(command).__name__.lower()
    module = import_module(f"landscape.cli.{_MODULES.get(name, name)}")
    return getattr(module, name)(command)
