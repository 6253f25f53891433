"""The mutation score: the share of wrong formulas that the test suite catches.

    python -m benchmarks.mutation --count 300           # goes on where it was ended
    python -m benchmarks.mutation --count 300 --write   # and writes results/mutation.json

Each mutant is one formula of the mathematics with one mistake (`mutants`). The tests that belong to
its module run until one fails. A mutant that passes all of them survives. Of each survivor
mutation_survivors.md says why nothing is wrong with it.

Mutants live in copies of the tree. One process imports what is not ours, and forks for each mutant:
JAX has then been imported, but has not started.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from benchmarks.mutants import Mutant, formulas_of, of_source

ROOT = Path(__file__).parent.parent
RECORD = Path(__file__).parent / "results/mutation.json"
EXAMPLES = 10  # of Hypothesis, for each test

_CURVATURE = ("test_blocks", "test_landscape", "test_linear_study", "test_units")
# the tests that belong to each file or folder, the most telling first
TESTS = {
    "linvae_jax/linear.py": (
        "test_linear", "test_testing", "test_ppca", "test_stationary", "test_collapsed_latent",
        "test_divergence", "test_evaluation",
    ),
    "linvae_jax/ppca.py": ("test_ppca", "test_linear", "test_stationary", "test_predictions"),
    "landscape/points/stationary.py": ("test_stationary", "test_blocks", "test_units"),
    "landscape/points": ("test_census", "test_units", "test_landscape"),
    "landscape/curvature/collapsed_latent.py": ("test_collapsed_latent", "test_network_study"),
    "landscape/curvature/conditioning.py": ("test_landscape", "test_stationary", *_CURVATURE),
    "landscape/curvature/escape.py": (
        "test_stationary", *_CURVATURE, "test_network_study", "test_linear"
    ),
    "landscape/curvature/onset.py": ("test_onset", "test_contracts"),
    "landscape/curvature/mixed": ("test_census", "test_units"),
    "landscape/curvature": _CURVATURE,
    "landscape/diagnosis": ("test_diagnosis_theory", "test_diagnosis"),
}  # fmt: skip


@cache
def _source(file: str) -> bytes:
    """As it was at first, whatever happens to the tree meanwhile."""
    return (ROOT / file).read_bytes()


@cache
def _formulas(file: str) -> dict[str, str]:
    return formulas_of(_source(file))


def files() -> list[str]:
    """The files whose formulas are mutated."""
    folders = ("landscape/points", "landscape/curvature")
    inside = [p for f in folders for p in sorted((ROOT / f).glob("*.py"))]
    pure = ("codes", "expected", "levels", "losses", "verdicts")
    return [
        "linvae_jax/linear.py", "linvae_jax/ppca.py",
        *(f"landscape/diagnosis/{name}.py" for name in pure),
        *(str(p.relative_to(ROOT)) for p in inside if p.name != "__init__.py"),
    ]  # fmt: skip


def shuffled(seed: int, only: Sequence[str] = ()) -> dict[str, list[Mutant]]:
    """All mutants of each file, in random order.

    Args:
        seed: of the order.
        only: parts of file names; of all files if there are none.
    """
    found = {f: of_source(f, _source(f)) for f in files()}
    found = {f: m for f, m in found.items() if not only or any(part in f for part in only)}
    for file, of_file in found.items():
        random.Random(f"{seed} {file}").shuffle(of_file)
    return found


def sample(possible: dict[str, list[Mutant]], count: int) -> list[Mutant]:
    """About that many mutants, the first ones of each file, in proportion to all that it has."""
    total = sum(map(len, possible.values()))
    firsts = {f: max(4, round(count * len(found) / total)) for f, found in possible.items()}
    chosen = [m for f, found in possible.items() for m in found[: firsts[f]]]
    random.Random(0).shuffle(chosen)
    return chosen


def tests_of(file: str) -> list[str]:
    """The test files that belong to a file."""
    key = next(key for key in TESTS if file.startswith(key))
    return [f"tests/{name}.py" for name in TESTS[key] if (ROOT / f"tests/{name}.py").exists()]


# in the child


class _Order:
    """A plugin of pytest: telling tests first, then the others file by file."""

    def __init__(self, first: list[str], tests: list[str], tree: Path) -> None:
        self.first, self.tests, self.tree = first, tests, tree
        self.failed = ""

    def pytest_configure(self) -> None:
        import hypothesis
        import jax

        jax.clear_caches = lambda: None  # a file may come twice
        settings = hypothesis.settings
        # one failure will do: it is neither made smaller nor explained
        settings.register_profile(
            "mutation",
            deadline=None,
            max_examples=EXAMPLES,
            derandomize=True,
            database=None,
            phases=(hypothesis.Phase.explicit, hypothesis.Phase.generate),
            report_multiple_bugs=False,
        )
        settings.load_profile("mutation")

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        import linvae_jax

        assert Path(linvae_jax.__file__).is_relative_to(self.tree), linvae_jax.__file__
        rank = {name: place for place, name in enumerate(self.first)}
        file = {name: place for place, name in enumerate(self.tests)}
        last = len(rank)

        def key(item: Any) -> tuple[int, int]:
            return rank.get(item.nodeid, last), file.get(item.nodeid.split("::")[0], 0)

        items.sort(key=key)

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed and not self.failed:
            self.failed = report.nodeid

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed and not self.failed:
            self.failed = f"import of {report.nodeid}"


def _run_tests(tree: Path, tests: list[str], first: list[str], log: Path) -> str:
    """What a child does: the tests in its tree, until one fails; says which."""
    os.chdir(tree)
    sys.path[:] = [str(tree), str(tree / "tests")] + [
        p for p in sys.path if p not in ("", str(ROOT))
    ]
    with log.open("w") as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
    plugin = _Order(first, tests, tree)
    code = pytest.main(
        [
            "-x",
            "-q",
            "-p",
            "no:cacheprovider",
            "-W",
            "ignore:Module already imported",
            "--tb=no",
            *tests,
        ],
        [plugin],
    )
    # 4: of the likeliest tests one has another name by now; all of them are still to come
    if code not in (0, 1, 4) and not plugin.failed:
        plugin.failed = f"pytest ended with {int(code)}"
    return plugin.failed


def _import_others() -> None:
    """Import, once for all children, what is not ours."""
    for name in (
        "hypothesis.strategies", "xdist.plugin", "beartype", "jaxtyping", "scipy.stats",
        "scipy.optimize", "jax.numpy", "jax.scipy.linalg", "optax", "flax.nnx", "matfree", "xarray",
        "sklearn.decomposition", "orbax.checkpoint", "matplotlib.pyplot",
    ):  # fmt: skip
        __import__(name)


@dataclass
class _Job:
    """A mutant, or none, and the tests to run until one fails: some of them first, then others."""

    mutant: Mutant | None
    stages: list[list[str]]
    limit: float = 900.0  # seconds for each stage
    began: float = 0.0
    took: float = 0.0  # before that
    stage_began: float = 0.0
    tests: list[str] = field(default_factory=list)  # of the stage that runs


class _Slot:
    """A copy of the tree, and the child that works in it."""

    def __init__(self, tree: Path) -> None:
        self.tree, self.answer = tree, tree.with_suffix(".json")
        self.pid = 0
        self.job = _Job(None, [])

    def start(self, job: _Job, first: list[str]) -> None:
        """The next of the job's stages."""
        self.job = job
        self.answer.unlink(missing_ok=True)
        if job.mutant:
            mutated = job.mutant.applied(_source(job.mutant.file))
            (self.tree / job.mutant.file).write_bytes(mutated)
        job.tests = job.stages.pop(0)
        job.stage_began = time.monotonic()
        self.pid = os.fork()
        if not self.pid:
            try:
                os.setsid()
                found = _run_tests(self.tree, job.tests, first, self.tree.with_suffix(".log"))
                self.answer.write_text(json.dumps(found))
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(0)

    def poll(self) -> str | None:
        """What caught the mutant ("" if nothing did), once the child has ended; late, it is."""
        late = time.monotonic() - self.job.stage_began > self.job.limit
        if late:
            os.killpg(self.pid, signal.SIGKILL)
        if os.waitpid(self.pid, 0 if late else os.WNOHANG)[0] == 0:
            return None
        if self.job.mutant:
            (self.tree / self.job.mutant.file).write_bytes(_source(self.job.mutant.file))
        self.pid = 0
        if self.answer.is_file():
            return json.loads(self.answer.read_text())
        return "time limit" if late else "the process died"


def _copies(count: int, folder: Path, programs: Path) -> list[_Slot]:
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"],
        cwd=ROOT, capture_output=True, check=True, text=True,
    )  # fmt: skip
    slots = []
    for i in range(count):
        tree = folder / f"tree{i}"
        for name in filter(None, listed.stdout.split("\0")):
            if (ROOT / name).is_file():
                (tree / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ROOT / name, tree / name)
        (tree / ".pytest_cache").mkdir()
        (tree / ".pytest_cache/jax").symlink_to(programs)
        slots.append(_Slot(tree))
    programs.mkdir(parents=True, exist_ok=True)
    return slots


class _Done:
    """What is known of mutants, kept in a file; forgotten where its function has others."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.known: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}

    @staticmethod
    def key(m: Mutant) -> str:
        around = _formulas(m.file).get(m.function.split(".")[0], "")
        name = (m.file, m.function, m.kind, m.before, m.after, m.copy)
        return hashlib.sha1(f"{around} {name}".encode()).hexdigest()

    def save(self) -> None:
        """Whole or not at all."""
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps(self.known, indent=0, ensure_ascii=False))
        new.replace(self.path)


class _Kills:
    """Which tests caught mutants so far, of each function; and those to try before all others."""

    def __init__(self, known: Iterable[dict[str, Any]], first: Sequence[str]) -> None:
        self.first = first
        self.times: Counter[tuple[str, str, str]] = Counter()
        for answer in known:
            self.add(answer)

    def add(self, answer: dict[str, Any]) -> None:
        if "::" in answer.get("caught", ""):
            self.times[answer["file"], answer["function"], answer["caught"]] += 1

    def most(self, mutant: Mutant) -> list[str]:
        """Tests that are the most likely to catch this one too."""
        found: Counter[str] = Counter()
        for (file, function, test), times in self.times.items():
            if file == mutant.file:
                found[test] += times * (100 if function == mutant.function else 1)
        files = tests_of(mutant.file)
        asked = [test for test in self.first if test.split("::")[0] in files]
        return [*asked, *(test for test, _ in found.most_common(4))]


def _measure(
    chosen: list[Mutant], done: _Done, jobs: int, folder: Path, first: Sequence[str]
) -> None:
    """Run what is not known yet, `jobs` at a time."""
    slots = _copies(jobs, folder, done.path.parent.absolute() / "mutation-programs")
    undecided = {"undecided": True}
    mutants = [m for m in chosen if done.known.get(done.key(m), undecided).get("undecided")]
    # unmutated first: every test passes, and how long each file takes
    seconds = done.known.setdefault("seconds", {})
    files = sorted({t for m in mutants for t in tests_of(m.file)} - set(seconds))
    _run([_Job(None, [[f]]) for f in files], slots, done, ())
    waiting = []
    for m in mutants:
        tests = tests_of(m.file)
        limit = 120 + 4 * sum(seconds[t] for t in tests)
        waiting.append(_Job(m, [[], tests[:1], tests[1:]], limit))
    _run(waiting, slots, done, first)


def _run(waiting: list[_Job], slots: list[_Slot], done: _Done, tests: Sequence[str]) -> None:
    kills = _Kills(done.known.values(), tests)
    number, of = 0, len(waiting)

    def begin(slot: _Slot, job: _Job) -> None:
        first = kills.most(job.mutant) if job.mutant else []
        if not job.stages[0]:  # the likely ones by themselves, if there are any
            job.stages[0] = first or job.stages.pop(1)
        slot.start(job, first)

    while waiting or any(slot.pid for slot in slots):
        time.sleep(0.05)
        for slot in slots:
            if not slot.pid and waiting:
                waiting[0].began = time.monotonic()
                begin(slot, waiting.pop(0))
            caught = slot.poll() if slot.pid else None
            if caught is None:
                continue
            job, m = slot.job, slot.job.mutant
            if not caught and len(job.stages) > 1:
                begin(slot, job)
                continue
            passed = round(job.took + time.monotonic() - job.began, 1)
            if not caught and job.stages:  # the long rest when all others have had their turn
                job.took = passed
                waiting.append(job)
                if m:
                    answer = asdict(m) | {"caught": "", "took": passed, "undecided": True}
                    done.known[done.key(m)] = answer
                    done.save()
                continue
            number += 1
            if m is None:
                if caught:
                    log = slot.tree.with_suffix(".log").read_text()
                    sys.exit(f"{log}\n{caught} fails without a mutant")
                test = job.tests[0]
                done.known["seconds"][test] = passed
                print(f"{test}: {passed:.0f} s", flush=True)
            else:
                answer = asdict(m) | {"caught": caught, "took": passed}
                kills.add(answer)
                done.known[done.key(m)] = answer
                word = "caught" if caught else "SURVIVED"
                print(f"{number}/{of} {word} {passed:.0f} s {_line(answer)}  {caught}", flush=True)
            done.save()


def _line(answer: dict[str, Any]) -> str:
    change = f"{answer['before']} → {answer['after']}".replace("\n", " ")
    return f"{answer['file']}:{answer['line']} {answer['function']} [{answer['kind']}] {change}"


def summary(possible: dict[str, list[Mutant]], done: _Done) -> dict[str, Any]:
    """The record: shares by file and by kind of all that was run, whatever the seed, and survivors.

    What passed the first tests and has not met the others yet counts as not caught.
    """
    by_file = {
        f: [done.known[done.key(m)] | asdict(m) for m in found if done.key(m) in done.known]
        for f, found in possible.items()
    }
    answers = [a for of_file in by_file.values() for a in of_file]
    total = sum(map(len, possible.values()))

    def share(of: list[dict[str, Any]]) -> dict[str, Any]:
        caught = sum(bool(a["caught"]) for a in of)
        return {"run": len(of), "caught": caught, "share": round(caught / max(len(of), 1), 4)}

    names = ("file", "line", "function", "kind", "before", "after", "undecided")
    survivors = [{n: a[n] for n in names if n in a} for a in answers if not a["caught"]]
    return {
        "format": "linvae_jax mutation 1",
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "examples": EXAMPLES,
        "possible": total,
        **share(answers),
        # each file weighted by all mutants that it has, not by those that were run
        "weighted_share": round(
            sum(share(by_file[f])["share"] * len(found) for f, found in possible.items()) / total, 4
        ),
        "undecided": sum("undecided" in a for a in answers),
        "at_import": sum(a["caught"].startswith("import") for a in answers),
        "at_time_limit": sum(a["caught"] == "time limit" for a in answers),
        "files": {f: {"possible": len(m), **share(by_file[f])} for f, m in possible.items()},
        "kinds": {
            k: share([a for a in answers if a["kind"] == k])
            for k in sorted({a["kind"] for a in answers})
        },
        "survivors": sorted(survivors, key=lambda s: (s["file"], s["line"], s["after"])),
    }


def _lines(record: dict[str, Any]) -> Iterator[str]:
    yield (
        f"{record['run']} of {record['possible']} mutants run, {record['share']:.1%} caught, "
        f"{record['weighted_share']:.1%} with files weighted by all that they have"
    )
    for name, part in {**record["files"], **record["kinds"]}.items():
        yield f"  {name}: {part['caught']} of {part['run']}"
    for s in record["survivors"]:
        yield f"{'undecided' if 'undecided' in s else 'survivor'} {_line(s)}"


def main() -> None:
    """Run, print, and write the record if asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--count", type=int, default=300, help="mutants in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=[], help="parts of file names")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--state", type=Path, default=ROOT / ".pytest_cache/mutation.json")
    parser.add_argument("--write", action="store_true", help=f"write {RECORD.relative_to(ROOT)}")
    parser.add_argument("--again", action="store_true", help="survivors once more: tests are new")
    parser.add_argument("--first", nargs="*", default=[], help="tests to try first: new ones")
    parser.add_argument("--list", action="store_true", help="print the mutants, run none")
    args = parser.parse_args()
    possible = shuffled(args.seed, args.only)
    chosen = sample(possible, args.count)
    if args.list:
        print(*(_line(asdict(m)) for m in chosen), sep="\n")
        return
    args.state.parent.mkdir(parents=True, exist_ok=True)
    done = _Done(args.state)
    if args.again:
        done.known = {k: v for k, v in done.known.items() if v.get("caught", True)}
    os.environ.update(
        JAX_DISABLE_MOST_OPTIMIZATIONS="1", XLA_FLAGS="--xla_cpu_use_fusion_emitters=false",
        JAX_ENABLE_X64="1", OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", PYTHONHASHSEED="0",
        PYTHONDONTWRITEBYTECODE="1", MPLBACKEND="agg",
    )  # fmt: skip
    _import_others()
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
        _measure(chosen, done, args.jobs, Path(folder), args.first)
    record = summary(possible, done)
    print("\n".join(_lines(record)))
    if args.write:
        RECORD.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
