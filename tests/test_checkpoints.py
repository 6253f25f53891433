"""Saves: back to the bit, whole or not at all, never wrong numbers, never another run's."""

import errno
import json
import logging
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from linvae_jax._engine.checkpoints import Store

ROOT = Path(__file__).parents[1]
RUN = {"beta": 1.0, "config": {"steps": 10, "optimizer": "adam"}, "grid": (1, 2)}


def same(a: Any, b: Any) -> None:
    """The same structure, dtypes, shapes and bits."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert (str(x.dtype), x.shape) == (str(y.dtype), y.shape)
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def tiny(step: int) -> dict[str, Any]:
    """A small tree whose content tells the step; random, so that it cannot be compressed."""
    rng = np.random.default_rng(step)
    return {"W": rng.normal(size=(20, 10)), "mask": rng.random(30) > 0.5, "count": np.int32(step)}


def saved(folder: Path, *steps: int) -> Path:
    with Store(folder, RUN) as store:
        for step in steps:
            store.save(step, tiny(step), {"seed": step})
    return folder


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


# --- what comes back ---


DTYPES = (
    "bfloat16", "float16", "float32", "float64", "int8", "int32", "int64", "uint8", "uint32",
)  # fmt: skip


def there_and_back(folder: Path, tree: Any, template: Any = None) -> Any:
    with Store(folder, RUN) as store:
        store.save(1, tree)
        restored = store.restore(template)
    assert restored is not None
    return restored.arrays


@pytest.mark.slow
@pytest.mark.parametrize("x64", [True, False])
def test_every_dtype_comes_back_to_the_bit(tmp_path, x64):
    # random bits hold what no comparison of numbers would see: -0.0, subnormals, NaNs of all kinds
    rng = np.random.default_rng(0)
    tree = {"bool": rng.random(9) > 0.5}
    for dtype in map(jnp.dtype, DTYPES):
        for shape in [(), (1,), (500,), (2, 3), (2, 0), (3, 1, 4)]:
            bits = rng.bytes(int(np.prod(shape)) * dtype.itemsize)
            tree[f"{dtype}{shape}"] = np.frombuffer(bits, dtype).reshape(shape)
    with jax.enable_x64(x64):  # which must make no difference to NumPy arrays
        same(there_and_back(tmp_path / "numpy", tree, tree), tree)
        known = {name: leaf for name, leaf in tree.items() if x64 or leaf.dtype.itemsize < 8}
        on_device = jax.tree.map(jnp.asarray, known)
        same(on_device, known)
        same(there_and_back(tmp_path / "jax", on_device, on_device), on_device)


def test_names_of_any_kind_and_plain_numbers_come_back(tmp_path):
    tree = {
        "states/params.W": jnp.ones((3, 2)),
        "['layers'][0]/W": jnp.ones(2, jnp.bfloat16),
        "a key with / and . and é": jnp.zeros((2, 0)),
        "step": 7,
        "rate": 0.1,
    }
    restored = there_and_back(tmp_path, tree, jax.tree.map(np.asarray, tree))
    same(restored, jax.tree.map(np.asarray, tree))
    assert all(isinstance(array, np.ndarray) for array in restored.values())


def test_the_newest_comes_back_with_its_facts_and_two_are_kept(tmp_path):
    with Store(tmp_path, RUN) as store:
        assert store.restore() is None
        for step in (1, 5, 20, 100):
            store.save(step, tiny(step), {"runs": [1, step], "at": (0.1, None)})
        restored = store.restore(tiny(0))
    assert restored is not None
    assert (restored.step, restored.facts) == (100, {"runs": [1, 100], "at": [0.1, None]})
    same(restored.arrays, tiny(100))
    assert names(tmp_path) == ["identity.json", "step_100", "step_20"]


# --- saving in the background ---


@partial(jax.jit, donate_argnums=0)
def _overwrite(tree: Any) -> Any:
    return jax.tree.map(lambda a: a * 0 - 1, tree)


def test_arrays_may_be_donated_or_changed_while_they_are_written(tmp_path):
    def made(step: int) -> dict[str, jax.Array]:
        return {"x": jnp.full((2**22,), step, jnp.float32), "y": jnp.full((2**20,), step)}

    _overwrite(made(0))  # compiled before, else a save is over before its arrays are overwritten
    overlapped = step = 0
    with Store(tmp_path, RUN) as store:
        while step < 3 or (not overlapped and step < 20):  # a fast disk may win some races
            step += 1
            tree, host = made(step), np.full(2**20, step)
            store.save(step, tree | {"host": host})
            for _ in range(3):
                tree = _overwrite(tree)
            host[:] = -1
            jax.block_until_ready(tree)
            overlapped += not (tmp_path / f"step_{step}").exists()
            restored = store.restore()
            assert restored is not None
            assert restored.step == step
            assert all((leaf == step).all() for leaf in restored.arrays.values())
    assert overlapped, "every save was complete before its arrays were overwritten: nothing tested"


def _fail_after_saving(folder: Path, tree: Any) -> None:
    with Store(folder, RUN) as store:
        store.save(3, tree)
        raise KeyError("of the body")


def test_an_error_in_the_body_does_not_lose_a_save(tmp_path):
    with pytest.raises(KeyError, match="of the body"):
        _fail_after_saving(tmp_path, tiny(3))
    with Store(tmp_path, RUN) as store:
        restored = store.restore()
    assert restored is not None
    same(restored.arrays, tiny(3))


@pytest.fixture
def full_disk():
    """Files cannot grow beyond 200 kB, as on a disk that is nearly full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_save_that_fails_says_so_and_leaves_the_one_before(tmp_path, full_disk, capfd):
    large = {"x": np.random.default_rng(0).random(2**17)}
    with Store(tmp_path, RUN) as store:
        store.save(1, tiny(1))
        store.save(2, large)
        with pytest.raises(OSError, match=r"failed.*too large.*before it are intact"):
            store.wait()
        restored = store.restore()
        assert restored is not None
        assert restored.step == 1
        store.save(2, tiny(2))  # and it can go on
    assert names(tmp_path)[1:3] == ["step_1", "step_2"]
    with pytest.raises(OSError, match="failed"), Store(tmp_path, RUN) as store:
        store.save(3, large)
    with pytest.raises(KeyError, match="of the body") as raised:
        _fail_after_saving(tmp_path, large)
    assert "failed" in raised.value.__notes__[0]
    assert capfd.readouterr().err == ""  # raised is enough, Orbax need not print it too


# --- damage ---


def damaged(data: bytes, rng: random.Random) -> dict[str, bytes | None]:
    """Ways in which a file breaks: cut, lost, one bit the other way."""

    def flipped(at: int) -> bytes:
        return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]

    cut = {f"cut at {end}": data[:end] for end in (0, len(data) // 2, len(data) - 1)}
    middle, anywhere = flipped(len(data) // 2), flipped(rng.randrange(len(data)))
    return cut | {"lost": None, "flip": middle, "flip anywhere": anywhere}


def test_a_damaged_file_never_gives_wrong_numbers(tmp_path):
    saved(tmp_path, 1, 2)
    files = [path for path in sorted((tmp_path / "step_2").rglob("*")) if path.is_file()]
    assert len(files) > 5
    rng = random.Random(0)
    told = set()
    with Store(tmp_path, RUN) as store:
        for file in files:
            data = file.read_bytes()
            for how, broken in damaged(data, rng).items():
                file.unlink() if broken is None else file.write_bytes(broken)
                with warnings.catch_warnings(record=True) as caught:
                    warnings.simplefilter("always")
                    restored = store.restore(tiny(0))
                assert restored is not None
                same(restored.arrays, tiny(restored.step))
                assert restored.facts == {"seed": restored.step}
                if restored.step == 2:  # some files are not needed to read the arrays
                    assert not caught
                else:
                    assert "going back to step 1, since step 2 is damaged" in str(caught[0].message)
                    told.add((file.name, how))
                file.write_bytes(data)
        # of these, every way must be found out
        largest = max(files, key=lambda file: file.stat().st_size)
        for name in ("manifest.ocdbt", "metadata", largest.name):
            assert {how for file, how in told if file == name} >= {"cut at 0", "lost", "flip"}
        restored = store.restore(tiny(0))
        assert restored is not None
        assert restored.step == 2


def test_a_bit_that_orbax_would_let_pass_is_found(tmp_path):
    """Orbax reads an array with a flipped bit without a word, hence our checksums."""
    saved(tmp_path, 1, 2)
    stored = [path for path in (tmp_path / "step_2").rglob("*") if path.is_file()]
    data = max(stored, key=lambda file: file.stat().st_size)
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)
    with Store(tmp_path, RUN) as store, pytest.warns(UserWarning, match="W fails its checksum"):
        store.restore()


def test_a_run_goes_on_from_the_save_before_a_damaged_one(tmp_path):
    saved(tmp_path, 1, 2)
    (tmp_path / "step_2" / "record" / "metadata").unlink()
    with Store(tmp_path, RUN) as store:
        with pytest.warns(UserWarning, match="going back to step 1"):
            store.restore()
        store.save(2, tiny(20))
        restored = store.restore()
    assert restored is not None
    assert restored.step == 2
    same(restored.arrays, tiny(20))
    assert names(tmp_path) == ["identity.json", "step_1", "step_2"]


def test_nothing_intact_is_an_error_that_says_what_is_wrong(tmp_path):
    saved(tmp_path, 1, 2)
    for step in (1, 2):
        shutil.rmtree(tmp_path / f"step_{step}" / "tree")
    message = r"step 2 is damaged.*step 1 is damaged.*Delete"
    with Store(tmp_path, RUN) as store, pytest.raises(ValueError, match=message):
        store.restore()
    assert names(tmp_path) == ["identity.json", "step_1", "step_2"]  # ours to tell, not to delete


def test_an_unfinished_save_is_ignored_and_removed(tmp_path):
    saved(tmp_path, 1)
    unfinished = tmp_path / "step_2.orbax-checkpoint-tmp"
    shutil.copytree(tmp_path / "step_1", unfinished)
    with Store(tmp_path, RUN) as store:
        restored = store.restore()
        assert restored is not None
        assert restored.step == 1
        store.save(2, tiny(2))
    assert not unfinished.exists()


# --- other processes ---


def python(code: str, *arguments: object, devices: int = 1) -> subprocess.Popen[str]:
    flags = f"--xla_force_host_platform_device_count={devices}"
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code, *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


SAVES_FOREVER = """
import sys
import numpy as np
from linvae_jax._engine.checkpoints import Store

sys.stdin.readline()
with Store(sys.argv[1], {"run": "killed"}) as store:
    restored = store.restore()
    step = restored.step if restored else 0
    print(step, flush=True)
    while True:
        step += 1
        store.save(step, {"x": np.random.default_rng(step).random(2**19)}, {"step": step})
        print(step - 1, flush=True)  # is complete, since it was waited for
"""


@pytest.mark.slow
def test_killed_at_any_moment_the_last_complete_save_comes_back(tmp_path):
    children = [python(SAVES_FOREVER, tmp_path) for _ in range(3)]  # imports take their time
    rng = random.Random(0)
    step = 0
    for child in children:
        assert child.stdin
        assert child.stdout
        child.stdin.write("go\n")
        child.stdin.flush()
        assert int(child.stdout.readline()) == step  # goes on where the one before was killed
        while int(child.stdout.readline()) < step + 2:
            pass
        time.sleep(rng.uniform(0, 0.2))
        child.send_signal(signal.SIGKILL)
        out, _ = child.communicate()
        complete = max([step + 2, *(int(line) for line in out.splitlines())])
        with Store(tmp_path, {"run": "killed"}) as store:
            restored = store.restore()
        assert restored is not None
        step = restored.step
        assert step in (complete, complete + 1)  # the next may have been complete as well
        same(restored.arrays, {"x": np.random.default_rng(step).random(2**19)})
        assert restored.facts == {"step": step}


SAVES_SHARDED = """
import sys
import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from linvae_jax._engine.checkpoints import Store

assert jax.device_count() == 4
mesh = jax.make_mesh((2, 2), ("a", "b"), axis_types=(AxisType.Auto,) * 2)
put = lambda x, *axes: jax.device_put(x, NamedSharding(mesh, P(*axes)))
x = jnp.arange(48.0).reshape(4, 6, 2)
with Store(sys.argv[1], {"run": "sharded"}) as store:
    store.save(1, {
        "runs": put(x, ("a", "b")), "both": put(x, "a", "b"), "half": put(x, None, "b"),
        "whole": put(x),
    })
"""


@pytest.mark.slow
def test_a_save_of_four_devices_comes_back_on_one(tmp_path):
    child = python(SAVES_SHARDED, tmp_path, devices=4)
    out, err = child.communicate()
    assert (child.returncode, out, err) == (0, "", "")  # and it makes no noise
    x = np.arange(48, dtype=np.float32).reshape(4, 6, 2)
    expected = {"runs": x, "both": x, "half": x, "whole": x}
    fewer = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((1, *leaf.shape[1:]), leaf.dtype), expected
    )
    with Store(tmp_path, {"run": "sharded"}) as store:
        restored = store.restore(fewer, free_axes=1)
    assert restored is not None
    same(restored.arrays, expected)
    # each shard has its own checksum
    record = json.loads((tmp_path / "step_1" / "record" / "metadata").read_text())["record"]
    shards = {name: len(leaf["shards"]) for name, leaf in record["leaves"].items()}
    assert shards == {"runs": 4, "both": 4, "half": 2, "whole": 1}


# --- what does not fit ---


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"W": jnp.zeros((20, 10), jnp.float32)}, r"at W: got dtype float32, expected float64"),
        ({"count": np.int64(0)}, r"at count: got dtype int64, expected int32"),
        ({"W": np.zeros((20, 11))}, r"at W: got shape \(20, 11\), expected \(20, 10\)"),
        ({"W": np.zeros((20, 10, 1))}, r"at W: got shape \(20, 10, 1\)"),
        ({"W": np.zeros((10, 20))}, r"at W: got shape \(10, 20\)"),
        ({"b": np.zeros(2)}, r"not saved: b; saved ones it lacks: none"),
        ({"W/x": np.zeros((20, 10))}, r"not saved: W/x; saved ones it lacks: none"),
        ({"count": jax.random.key(0)}, r"at count: got dtype key<fry>"),
    ],
)
def test_another_template_is_refused_before_anything_is_read(tmp_path, change, message):
    template = tiny(0) | change
    saved(tmp_path, 1)
    shutil.rmtree(tmp_path / "step_1" / "tree")  # the arrays: not needed for this answer
    with Store(tmp_path, RUN) as store, pytest.raises(ValueError, match=message) as raised:
        store.restore(template)
    assert "step_1" in str(raised.value)


def test_only_the_free_axes_may_have_another_length(tmp_path):
    with Store(tmp_path, RUN) as store:
        store.save(1, {"runs": np.zeros((4, 3)), "step": 1})
        fewer = {"runs": np.zeros((2, 3)), "step": np.zeros((), int)}
        restored = store.restore(fewer, free_axes=1)
        assert restored is not None
        assert restored.arrays["runs"].shape == (4, 3)
        for template in (fewer, fewer | {"runs": np.zeros((2, 5))}):
            with pytest.raises(ValueError, match="at runs: got shape"):
                store.restore(template, free_axes=int(template is not fewer))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"beta": 2.0}, r"got beta = 2.0, expected beta = 1.0, as stored in .*identity.json"),
        ({"beta": float("nan")}, r"got beta = NaN"),
        ({"config": {"steps": 10, "optimizer": "sgd"}}, r'got config.optimizer = "sgd", expected'),
        ({"grid": [1, 3]}, r"got grid = \[1, 3\], expected grid = \[1, 2\]"),
        ({"seed": 1}, r"got seed = 1, expected seed = nothing"),
        ({"config": {"steps": 10}}, r"config.optimizer = nothing.*another folder, or delete"),
    ],
)
def test_a_folder_of_another_run_is_refused_by_name(tmp_path, change, message):
    saved(tmp_path, 1)
    Store(tmp_path, RUN | {"grid": [1, 2]}).__exit__(None, None, None)  # a tuple is stored as list
    with pytest.raises(ValueError, match=message):
        Store(tmp_path, RUN | change)
    assert names(tmp_path) == ["identity.json", "step_1"]


def test_one_list_of_the_identity_may_get_longer_and_nothing_else(tmp_path):
    def opened(**identity):
        Store(tmp_path, identity, longer="grid").__exit__(None, None, None)

    for grid in ([1], [1, 2], [1, 2], [1, 2, 13]):
        opened(grid=grid, beta=1.0)
    for grid in ([1, 2], [1, 2, 1], [1, 2, 1, 13], [2, 1, 13], [], 1, "[1, 2, 13, 4]"):
        with pytest.raises(ValueError, match=r"got grid = .*, expected grid = \[1, 2, 13\]"):
            opened(grid=grid, beta=1.0)
    with pytest.raises(ValueError, match=r"got beta = 2.0, expected beta = 1.0"):
        opened(grid=[1, 2, 13, 4], beta=2.0)
    with pytest.raises(ValueError, match=r"expected grid = \[1, 2, 13\]"):
        Store(tmp_path, {"grid": [1, 2, 13, 4], "beta": 1.0})


def test_folders_of_other_people_are_refused_and_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"which holds notes.txt, expected a new or empty one"):
        Store(tmp_path, RUN)
    with pytest.raises(ValueError, match="which is a file"):
        Store(tmp_path / "notes.txt", RUN)
    assert names(tmp_path) == ["notes.txt"]
    for text in ("", "[]", '{"format": "another"}'):
        (tmp_path / "identity.json").write_text(text)
        with pytest.raises(ValueError, match=r"identity.json is not ours or damaged"):
            Store(tmp_path, RUN)


def test_killed_before_the_identity_was_written_is_as_good_as_empty(tmp_path):
    (tmp_path / "identity.json.partial").write_text('{"format": "linv')
    saved(tmp_path, 1)
    assert names(tmp_path) == ["identity.json", "step_1"]
    shutil.rmtree(tmp_path / "step_1")
    with Store(tmp_path, RUN) as store:
        assert store.restore() is None


def test_what_cannot_be_saved_is_refused(tmp_path):
    with Store(tmp_path, RUN) as store:
        store.save(5, tiny(5))
        for step in (5, 4):
            with pytest.raises(ValueError, match=f"step: got {step}, expected one after 5"):
                store.save(step, tiny(step))
        for tree, message in [
            ({"a/b": "text"}, r"arrays\['a/b'\]: got an array of dtype <U4"),
            ({"a": np.ones(2, complex)}, r"arrays\['a'\]: got an array of dtype complex128"),
            ({"a": object()}, r"arrays\['a'\]: got an array of dtype object"),
            ({"a": jax.random.key(0)}, r"arrays\['a'\]: got an array of dtype key<fry>"),
            ({"a": np.zeros((0, 2))}, "arrays: got no numbers at all"),
        ]:
            with pytest.raises(ValueError, match=message):
                store.save(6, tree)
        with pytest.raises(ValueError, match=r"facts: got .* expected JSON values"):
            store.save(6, tiny(6), {"a": np.float32(1)})
        restored = store.restore()
        assert restored is not None
        assert restored.step == 5
    with pytest.raises(ValueError, match="identity: got"):
        Store(tmp_path / "new", {"a": object()})
    with pytest.raises(ValueError, match="keep: got 0"):
        Store(tmp_path / "new", RUN, keep=0)


def test_a_save_that_cannot_fit_is_refused_before_it_begins(tmp_path, monkeypatch, capfd):
    """Once begun, each of Orbax's threads would print a traceback of its own."""
    usage = shutil.disk_usage(tmp_path)
    with Store(tmp_path, RUN) as store:
        store.save(1, tiny(1))
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=100_000))
        with pytest.raises(
            OSError, match=r"A save to .* failed: .* 100,000 are free.*before it are intact"
        ) as raised:
            store.save(2, tiny(2))
        assert raised.value.errno == errno.ENOSPC
        monkeypatch.undo()
        store.save(2, tiny(2))  # with room it goes on
        # a file system that says nothing of its size is no reason not to try
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(total=0, free=0))
        store.save(3, tiny(3))
        restored = store.restore()
        assert restored is not None
        assert restored.step == 3
    assert capfd.readouterr().err == ""


def test_the_room_asked_for_is_what_a_save_takes(tmp_path, monkeypatch):
    """No less, or it would begin in vain; not much more, or it would be refused in vain."""
    asked = []

    class Disk:
        total = 1

        @property
        def free(self):
            return Free()

    class Free(int):
        def __lt__(self, needed: int) -> bool:
            asked.append(needed)
            return False

    for i, (count, size) in enumerate([(1, 1), (40, 100), (5, 40_000)]):
        tree = {str(j): np.random.default_rng(j).integers(0, 255, 8 * size, np.uint8)
                for j in range(count)}  # fmt: skip
        monkeypatch.setattr(shutil, "disk_usage", lambda path: Disk())
        with Store(tmp_path / str(i), RUN) as store:
            store.save(1, tree)
        monkeypatch.undo()
        files = [p.stat() for p in (tmp_path / str(i)).rglob("*")]
        taken = sum(512 * stat.st_blocks for stat in files)
        assert taken <= asked[-1] <= taken + 2**19


def test_asyncio_is_silent_of_orbax_and_of_nothing_else(caplog):
    """Of many writes that fail Orbax raises the first; the others need not be told."""
    logger = logging.getLogger("asyncio")

    def told(file: str) -> bool:
        caplog.clear()
        try:
            exec(compile("raise ValueError('disk full')", file, "exec"))
        except ValueError:
            logger.error("Task exception was never retrieved", exc_info=True)
        return bool(caplog.records)

    assert told("mine.py")
    assert not told(str(Path(ocp.__file__).parent / "deep" / "serialization.py"))
    logger.error("no exception at all")
    assert caplog.records[-1].message == "no exception at all"


def test_places_that_are_no_folders_are_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match=r"folder: got .*file/below, where .*file is a file"):
        Store(tmp_path / "file" / "below", RUN)
    assert (tmp_path / "file").read_text() == "mine"
