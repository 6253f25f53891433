"""What is imported when: help without JAX, the core without what only results and networks need."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

# all that a process may have that the core does not need
NOT_CORE = {"cftime", "flax", "matfree", "matplotlib", "mlxtend", "netCDF4", "optax", "orbax",
            "pandas", "sklearn", "tensorflow_datasets", "tqdm", "tyro", "xarray"}  # fmt: skip
CORE = ("moments", "ppca", "linear", "collapse", "gaussian", "vae", "streams", "evaluation",
        "predictions", "machine")  # fmt: skip
# forgets what is imported, then says of each command what its module brings
COMMANDS = """
import sys
from importlib import import_module
def found():
    return sorted({name.partition('.')[0] for name in sys.modules})
for names in sys.argv[1:]:
    for name in names.split(','):
        import_module(name)
    print(*found())
"""


def python(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A Python of its own, without what the suite has set for its children."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    kept.setdefault("PYTHONPATH", str(Path(__file__).parent.parent))
    return subprocess.run(
        [sys.executable, *arguments], env=kept | variables, capture_output=True, text=True,
        check=False,
    )  # fmt: skip


def test_help_is_answered_without_jax():
    script = """
import sys
from landscape.cli import main
for arguments in ([], ["fit"], ["sweep"], ["reproduce"]):
    try:
        main([*arguments, "--help"])
    except SystemExit as ended:
        assert ended.code == 0
print(*{name.partition('.')[0] for name in sys.modules})
"""
    ran = python("-c", script)
    assert ran.returncode == 0, ran.stderr
    *shown, modules = ran.stdout.splitlines()
    assert sum("usage: linvae" in line for line in shown) == 4
    assert not set(modules.split()) & (NOT_CORE | {"jax", "numpy", "scipy"} - {"tyro"}) - {"tyro"}


def test_the_core_imports_only_what_it_computes_with():
    """And each command no more than it uses: one process, which imports on and on."""
    steps = (
        ",".join(f"linvae_jax.{name}" for name in CORE),
        "landscape.cli.points",
        "landscape.cli.fit",
        "landscape.cli.sweep",
    )
    ran = python("-c", COMMANDS, *steps)
    assert ran.returncode == 0, ran.stderr
    core, points, fit, sweep = (set(line.split()) & NOT_CORE for line in ran.stdout.splitlines())
    assert core == set()
    assert points <= {"tqdm", "tyro"}  # a download has a bar
    assert fit <= points | {"xarray", "pandas", "cftime", "netCDF4"}
    assert sweep <= fit | {"optax"}


@pytest.fixture
def small(tmp_path: Path) -> Path:
    text = "\n".join(f"{i} {i * i % 7} {i * i % 11}" for i in range(20))
    script = "import sys, numpy as np; np.save(sys.argv[1], np.loadtxt(sys.argv[2]))"
    (tmp_path / "x.txt").write_text(text)
    assert python("-c", script, str(tmp_path / "x.npy"), str(tmp_path / "x.txt")).returncode == 0
    return tmp_path / "x.npy"


def entries(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*-cache")}


@pytest.mark.slow
def test_programs_are_kept_where_there_is_a_place_for_them(small, tmp_path):
    command = ("-m", "landscape", "points", "--data", str(small), "--k", "1")
    cache = tmp_path / "cache"
    off = python(*command, XDG_CACHE_HOME=str(cache), JAX_ENABLE_COMPILATION_CACHE="0")
    assert (off.returncode, off.stderr, cache.exists()) == (0, "", False)
    with ThreadPoolExecutor() as pool:  # two at once, which write the same files
        both = [pool.submit(python, *command, XDG_CACHE_HOME=str(cache)) for _ in range(2)]
    kept = entries(cache / "linvae-jax")
    assert len(kept) > 5
    # what another process has only half written is compiled again, and nothing is said of it
    for path in list((cache / "linvae-jax").glob("*-cache"))[::2]:
        path.write_bytes(path.read_bytes()[:50])
    again = python(*command, XDG_CACHE_HOME=str(cache))
    assert entries(cache / "linvae-jax") == kept  # all were found
    (tmp_path / "file").write_text("")
    nowhere = python(*command, XDG_CACHE_HOME=str(tmp_path / "file"))
    for ran in (*(one.result() for one in both), again, nowhere):
        assert (ran.returncode, ran.stderr, ran.stdout) == (0, "", off.stdout)
