"""Settings of every test: float64, and Hypothesis without deadlines or luck."""

import gc
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import Any

import hypothesis
import jax
import jaxtyping
import pytest

# Most of the suite's time goes to compiling small programs that run once: unoptimised they take
# three quarters of it, and by the older of XLA's two code generators, where a release still has
# it, less than half. "thorough" is as users run.
PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "default")
OLDER_CODE_GENERATOR = "--xla_cpu_use_fusion_emitters=false"


def _known(flags: str) -> bool:
    """Whether this XLA has the flags: one that it does not know ends the process that asks."""
    code = "from jaxlib.xla_client import CompileOptions; CompileOptions()"
    command = [sys.executable, "-c", code]
    environment = os.environ | {"XLA_FLAGS": flags}
    return not subprocess.run(command, env=environment, capture_output=True).returncode


if PROFILE == "default" and "JAX_DISABLE_MOST_OPTIMIZATIONS" not in os.environ:
    # for children, among them pytest's own processes, which find the answer here
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
    with suppress(AttributeError):  # a release without that option: slower, no more
        jax.config.update("jax_disable_most_optimizations", True)
    if _known(OLDER_CODE_GENERATOR):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {OLDER_CODE_GENERATOR}"
# and the suite's processes, children included, compile what takes long once for all of them
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(Path(__file__).parent.parent / ".pytest_cache/jax")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
jax.config.update("jax_enable_x64", True)


def _use_no_threads(make: Callable[..., Any]) -> Callable[..., Any]:
    """The same context of MLIR, without a table for each thread of all contexts there are."""

    @wraps(make)
    def context(*args: Any, **kwargs: Any) -> Any:
        made = make(*args, **kwargs)
        with suppress(AttributeError):
            made.enable_multithreading(False)
        return made

    return context


# JAX keeps a context for each program, and MLIR goes through the tables of all of them whenever one
# is made: of 2,000 small programs the last take twice as long as the first. A release without this
# private place is slower, no more.
with suppress(ImportError, AttributeError):
    from jax._src.interpreters import mlir

    mlir.make_ir_context = _use_no_threads(mlir.make_ir_context)

# JAX makes Python objects by the million, few of them garbage: by default looking for it takes 5 %
# of the time
gc.set_threshold(20_000, 50, 100)

# a new shape compiles for a quarter of a second, so no deadline; CI must not depend on luck
hypothesis.settings.register_profile("default", deadline=None, max_examples=40, derandomize=True)
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=1000)
hypothesis.settings.load_profile(PROFILE)

# Seconds of the files that take longest. A file stays in one of two processes, for there its
# tests share fixtures and compiled programs; the longest start first, so that both end together.
SLOW = {
    "test_diagnosis_training.py": 60,
    "test_cli.py": 55,
    "test_sweeps.py": 50,
    "test_units.py": 45,
    "test_blocks.py": 35,
    "test_device.py": 35,
    "test_windowed_sweeps.py": 30,
    "test_benchmarks.py": 30,
    "test_data.py": 25,
    "test_keys.py": 25,
    "test_cli_odd_files.py": 25,
    "test_lanczos.py": 25,
    "test_docs.py": 20,
    "test_census.py": 20,
    "test_network_study.py": 20,
    "test_networks.py": 20,
    "test_training.py": 20,
    "test_any_data.py": 15,
    "test_linear_study.py": 15,
    "test_adapters.py": 20,
    "test_collapsed_latent.py": 15,
    "test_contracts.py": 15,
    "test_checkpoints.py": 15,
    "test_testing.py": 15,
    "test_onset.py": 10,
    "test_stationary.py": 10,
    "test_linear.py": 10,
    "test_imports.py": 10,
    "test_divergence.py": 10,
    "test_evaluation.py": 5,
    "test_ppca.py": 5,
    "test_linear_claims.py": 5,
    "test_report.py": 5,
    "test_verify.py": 5,
    "test_network_experiments.py": 5,
}


@pytest.fixture(scope="module")
def no_annotation_checks() -> Iterator[None]:
    """What users get: the errors of annotations, which they do not have, would come before ours."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands of the exact part without their figures, which take a second each."""
    # by path: imported here, `landscape` would be there before its annotations are checked
    monkeypatch.setattr("landscape.figures.style.save", lambda figure, place: [])
    for name in ("stationary_surface", "escape_and_conditioning", "hessian_spectra",
                 "census_scatter"):  # fmt: skip
        monkeypatch.setattr(f"landscape.figures.linear.{name}", lambda *tables: None)


@pytest.fixture
def no_rendering(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are drawn and laid out, but of the PNG and the PDF nothing is written but a word."""

    def write(figure: object, path: Path) -> None:
        path.write_text("a figure")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", write)


@pytest.fixture(scope="module", autouse=True)
def _forget_programs(request: pytest.FixtureRequest) -> Iterator[None]:
    """JAX keeps 3 MB for each of thousands of programs, and gets slower at making new ones.

    Small files share programs with those after them.
    """
    yield
    if request.path.name in SLOW:
        jax.clear_caches()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: -SLOW.get(item.path.name, 0))
