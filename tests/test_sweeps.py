"""Sweeps: labelled, resumable to the bit, the same on any number of devices and processes."""

import errno
import os
import random
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import children
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
import sweep_child
from agreement import assert_close, leaves, same_bits, stop_after

from linvae_jax import (
    linear,
    linear_task,
    machine,
    network_task,
    sources,
    streams,
    sweeps,
    tables,
    training,
)
from linvae_jax import moments as mom
from linvae_jax._engine import layouts, shapes, sweep_folder, trainer
from linvae_jax.training import Annealing


@pytest.fixture(scope="module")
def whole() -> sweeps.Sweep:
    """The uninterrupted sweep on the layout of the child."""
    return sweep_child.run(None)


@pytest.mark.slow
def test_table_is_labelled_and_holds_what_single_runs_give(whole):
    table = whole.table
    assert table.elbo.dims == ("seed", "sigma2_init", "learned", "step")
    assert table.final_kl.dims == ("seed", "sigma2_init", "learned", "latent")
    assert table.final_below.dims[-2:] == ("epsilon", "latent")
    assert all(v.attrs["units"] and v.attrs["long_name"] for v in table.data_vars.values())
    assert not table.diverged.any()
    held = table.sel(learned=False)
    assert (held.sigma2 == held.sigma2_init.astype("float32")).all()
    hyper = training.Hyperparameters(0.01, 3.0, learned=True)
    hyper = jax.tree.map(lambda x: jnp.asarray(x, None if x is True else "float32"), hyper)
    key = streams.key(1, "training")
    one = (sweep_child.TASK, sweep_child.CONFIG, sweep_child.data(), hyper, key)
    params, history = training.train(*one)
    at = table.sel(seed=1, sigma2_init=3.0, learned=True)
    np.testing.assert_allclose(at.elbo, history.elbo, rtol=1e-4)  # as in `assert_close`
    same = whole.run(seed=1, sigma2_init=3.0, learned=True)
    for a, b in zip(leaves(params), leaves(same.params), strict=True):
        np.testing.assert_allclose(b, a, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("batching", "chunk"), [("loop", None), ("loop", 3), ("map", 8)])
def test_layouts_agree(whole, batching, chunk):
    other = sweep_child.run(None, batching=batching, chunk=chunk)
    assert_close(other.table, whole.table)


@pytest.mark.slow
def test_stopped_by_a_signal_it_saves_and_goes_on_to_the_bit(whole, tmp_path, monkeypatch):
    looks, signals = [], {2: signal.SIGTERM, 9: signal.SIGINT}
    segment = trainer.ProgressReport.segment

    def stop_at_some(self, *args):
        looks.append(1)
        if len(looks) in signals:
            os.kill(os.getpid(), signals[len(looks)])
        segment(self, *args)

    monkeypatch.setattr(trainer.ProgressReport, "segment", stop_at_some)
    before = [signal.getsignal(number) for number in signals.values()]
    for number, stops in zip(
        signals.values(), ("after 0 of 8 runs, with 4 more at step 20 ", "after 4 of 8 runs"),
        strict=True,
    ):  # fmt: skip
        with pytest.raises(sweep_folder.Stopped, match=f"{number.name} {stops}") as stopped:
            sweep_child.run(tmp_path, checkpoint_seconds=1e9)
        assert stopped.value.by == number
        assert [signal.getsignal(number) for number in signals.values()] == before
    assert len(list((tmp_path / "runs").glob("*.npz"))) == 4  # finished runs are there already
    resumed = sweep_child.run(tmp_path)
    assert same_bits(resumed, whole)
    assert len(looks) == 12  # nothing was trained twice
    assert tables.load(tmp_path / "sweep.nc").drop_attrs().identical(whole.table.drop_attrs())
    assert same_bits(sweeps.load(tmp_path, sweep_child.TASK, sweep_child.data()), whole)


@pytest.mark.slow
def test_killed_at_ten_random_moments_it_ends_with_the_same_bits(whole, tmp_path):
    moments = random.Random(0)
    folders = [tmp_path / "0"]
    kills = 0
    while kills < 10:
        # every other one among its saves, however slow the machine is to get to them
        segments = moments.randint(1, 6) if kills % 2 else 0
        child = children.start(sweep_child.run, folders[-1], segments=segments)
        time.sleep(moments.uniform(0.0, 0.3) if segments else moments.uniform(0.2, 1.5))
        child.kill()
        child.join()
        if child.exitcode == -signal.SIGKILL:
            kills += 1
        else:  # it was faster than the kill, which does not count: begin a new sweep
            assert child.exitcode == 0
            folders.append(tmp_path / str(len(folders)))
    for folder in folders:
        assert same_bits(sweep_child.run(folder), whole), folder


@pytest.mark.slow
def test_goes_on_with_four_devices_where_one_has_stopped(whole, tmp_path, monkeypatch):
    monkeypatch.setattr(sweep_folder, "anywhere", stop_after(5))
    with pytest.raises(sweep_folder.Stopped):
        # 3 runs: one device of 4 is idle; a loop over them is a program that others compile too
        sweep_child.run(tmp_path, batching="loop", chunk=3)
    monkeypatch.undo()
    child = children.start(sweep_child.run, tmp_path, devices=4)
    child.join(timeout=120)
    assert child.exitcode == 0
    table = tables.load(tmp_path / "sweep.nc")
    assert table.attrs["devices"] == "4"
    assert_close(table, whole.table)


@pytest.mark.slow
def test_one_of_two_processes_with_eight_devices_is_killed_and_both_start_again(whole, tmp_path):
    port = children.free_port()
    first = children.start(sweep_child.run, tmp_path, 4, (0, 2, port))
    second = children.start(sweep_child.run, tmp_path, 4, (1, 2, port), segments=3)
    second.kill()
    second.join()
    assert second.exitcode == -signal.SIGKILL
    first.kill()  # it waits for the other, as long as its scheduler lets it
    first.join()
    assert any((tmp_path / "checkpoints").iterdir())
    assert not (tmp_path / "sweep.nc").exists()
    children.share(sweep_child.run, tmp_path, 2, devices=4)
    table = tables.load(tmp_path / "sweep.nc")
    assert table.attrs["devices"] == "8"
    assert_close(table, whole.table)


@pytest.mark.slow
def test_a_run_that_one_of_two_processes_cannot_read_is_trained_again_by_both(whole, tmp_path):
    """Else one would train it and the other not, and each would wait for the other."""
    sweep_child.run(tmp_path)
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").iterdir()}
    assert len(files) == 8
    (tmp_path / "sweep.nc").unlink()
    children.share(sweep_child.run_without_one, tmp_path, 2)
    changed = [path.name for path, time in files.items() if path.stat().st_mtime_ns != time]
    assert changed == ["0001.npz"]  # of the other chunk there is a checkpoint
    assert_close(tables.load(tmp_path / "sweep.nc"), whole.table)


@pytest.mark.slow
def test_seeds_can_be_added(tmp_path, monkeypatch):
    """To a finished sweep, and to one that was stopped: what there is stays to the bit."""
    task, config = linear_task.LinearTask(k=1), training.TrainConfig(num_steps=4, record_every=1)
    problem = linear_task.problem(mom.from_covariance(jnp.array([2.0, 1.0])))
    grid = sweeps.Grid(seeds=(0, 1, 2), sigma2=(0.5, 1.0))

    def run(folder: Path | None, *seeds: int) -> sweeps.Sweep:
        of = replace(grid, seeds=seeds)
        options = {"chunk": 1, "quiet": True}
        return sweeps.run(task, config, problem, of, folder=folder, **options)

    whole = run(None, *grid.seeds)
    trained = []
    segment = trainer.ProgressReport.segment

    def counted(self, *args):
        trained.append(1)
        segment(self, *args)

    monkeypatch.setattr(trainer.ProgressReport, "segment", counted)
    run(tmp_path / "finished", 0)
    assert len(trained) == 2 * 4
    assert same_bits(run(tmp_path / "finished", *grid.seeds), whole)
    assert len(trained) == 6 * 4  # nothing was trained twice
    monkeypatch.setattr(sweep_folder, "anywhere", stop_after(5))
    with pytest.raises(sweep_folder.Stopped):
        run(tmp_path / "stopped", 0)
    monkeypatch.undo()
    assert same_bits(run(tmp_path / "stopped", *grid.seeds), whole)
    for others in ((0, 1), (0, 2, 1, 3), (1,)):
        with pytest.raises(
            ValueError, match=r"got grid\.seeds = .*, expected grid\.seeds = \[0, 1, 2\]"
        ):
            run(tmp_path / "stopped", *others)


@pytest.mark.slow
def test_another_sweep_in_the_folder_is_refused(tmp_path):
    task, config = linear_task.LinearTask(k=1), training.TrainConfig(num_steps=2, record_every=1)
    problem = linear_task.problem(mom.from_covariance(jnp.array([2.0, 1.0])))
    grid = sweeps.Grid(seeds=(0,))
    first = sweeps.run(task, config, problem, grid, folder=tmp_path, quiet=True)
    again = sweeps.run(task, config, problem, grid, folder=tmp_path, quiet=True)
    assert same_bits(first, again)
    with pytest.raises(ValueError, match=r"sigma2"):
        sweeps.run(task, config, problem, replace(grid, sigma2=(2.0,)), folder=tmp_path, quiet=True)
    other = linear_task.problem(mom.from_covariance(jnp.array([2.0, 1.5])))
    with pytest.raises(ValueError, match=r"data"):
        sweeps.run(task, config, other, grid, folder=tmp_path, quiet=True)


@pytest.mark.slow
def test_a_damaged_result_is_trained_again(tmp_path):
    task, config = linear_task.LinearTask(k=1), training.TrainConfig(num_steps=2, record_every=1)
    problem = linear_task.problem(mom.from_covariance(jnp.array([2.0, 1.0])))

    def run() -> sweeps.Sweep:
        # one run at a time and a checkpoint at each record: the new one goes behind those
        grid = sweeps.Grid(sigma2=(1.0, 2.0))
        return sweeps.run(
            task,
            config,
            problem,
            grid,
            folder=tmp_path,
            chunk=1,
            checkpoint_seconds=0.0,
            quiet=True,
        )

    first = run()
    path = tmp_path / "runs" / "0000.npz"
    whole = path.read_bytes()
    arrays = dict(np.load(path))
    for content in (whole[:100], b"", b"not a file of NumPy"):
        path.write_bytes(content)
        with pytest.warns(UserWarning, match=r"run 0 will be trained again: .*npz is damaged"):
            again = run()
        assert same_bits(first, again)
    # whole, but of a version that measured less: nobody's to overwrite
    np.savez(path, **{name: array for name, array in arrays.items() if name != "history/elbo"})
    with pytest.raises(ValueError, match=r"0000\.npz, without elbo, expected what this version"):
        run()


def test_runs_of_which_nobody_knows_the_sweep_are_not_taken_for_ours(tmp_path):
    """Without its checkpoints a folder cannot tell that these are runs at another σ²."""
    task, config = linear_task.LinearTask(k=1), training.TrainConfig(num_steps=2, record_every=1)
    problem = linear_task.problem(mom.from_covariance(jnp.array([2.0, 1.0])))
    sweeps.run(task, config, problem, sweeps.Grid(), folder=tmp_path, quiet=True)
    shutil.rmtree(tmp_path / "checkpoints")
    other = sweeps.Grid(sigma2=(0.1,))
    with pytest.raises(ValueError, match=r"with runs/ but without checkpoints/identity\.json"):
        sweeps.run(task, config, problem, other, folder=tmp_path, quiet=True)


def test_one_process_at_a_time_trains_in_a_folder(tmp_path):
    """Another file handle, even of this process, holds the lock as another process would."""
    fcntl = pytest.importorskip("fcntl")
    task, config = linear_task.LinearTask(k=1), training.TrainConfig(num_steps=2, record_every=1)
    problem = linear_task.problem(mom.from_covariance(jnp.array([2.0, 1.0])))
    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="in which another process trains"):
            sweeps.run(task, config, problem, sweeps.Grid(), folder=tmp_path, quiet=True)
    sweeps.run(task, config, problem, sweeps.Grid(), folder=tmp_path, quiet=True)


@pytest.mark.slow
def test_chunks_follow_the_memory(monkeypatch):
    task, config, data = sweep_child.TASK, sweep_child.CONFIG, sweep_child.data()
    grid = sweep_child.GRID
    args = (task, config, data, grid.hyperparameters("float32"), grid.keys())
    each = layouts.bytes_per_run(*args)
    shape = shapes.shape_of(task.model.init, jax.random.key(0), 1.0)
    size = sum(leaf.size * 4 for leaf in shape.leaves.values())
    assert each >= 3 * size  # parameters and two moments of Adam
    monkeypatch.setattr(layouts, "bytes_per_run", lambda *args: each)
    assert layouts.plan(*args, batching="vmap", memory=10**9) == layouts.RunLayout("vmap", 8)
    little = layouts.plan(*args, batching="vmap", memory=int(3.5 * each / 0.8))
    assert little.chunk == 3
    assert layouts.plan(*args, batching="vmap", memory=1).chunk == 1


def test_free_memory_counts_what_the_system_would_give_back(monkeypatch):
    installed = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    untouched = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    # of pages that nobody has touched the system keeps some for itself
    assert 0.8 * untouched < machine.free_memory() < installed

    def missing(*args: object, **options: object) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", missing)  # no Linux
    assert machine.free_memory() == installed


@pytest.mark.slow
def test_annealing_and_other_values_become_dimensions():
    task, config = linear_task.LinearTask(k=1), training.TrainConfig(num_steps=2, record_every=1)
    problem = linear_task.problem(mom.from_covariance(jnp.array([2.0, 1.0])))
    grid = sweeps.Grid(beta=(1.0, 2.0), annealing=(Annealing(), Annealing(10, 2, 0.5)))
    table = sweeps.run(task, config, problem, grid, quiet=True).table
    assert table.elbo.dims == ("seed", "sigma2_init", "learned", "beta", "annealing", "step")
    assert table.annealing.values.tolist() == ["none", "2 cycles over 10 steps, ramp 0.5"]
    assert table.learning_rate.ndim == 0


@pytest.mark.slow
def test_a_run_is_known_by_its_labels(tmp_path):
    """Several axes, one of which has a run that diverges; and the same read from a folder."""
    task = linear_task.LinearTask(k=1)
    config = training.TrainConfig(6, 2, optimizer="sgd", schedule="constant")
    problem = linear_task.problem(mom.from_covariance(jnp.array([2.0, 1.0])))
    slow = Annealing(10, 2, 0.5)
    grid = sweeps.Grid((4, 1), (0.5, 3.0), (False,), (0.01, 1e3), (1.0,), (Annealing(), slow))
    sweep = sweeps.run(task, config, problem, grid, folder=tmp_path, quiet=True)
    assert sweep.table.diverged.any()
    assert not sweep.table.diverged.all()
    loaded = sweeps.load(tmp_path, task, problem)
    assert same_bits(loaded, sweep)
    for i in range(grid.size):
        one = grid.only(i)
        labels: dict[str, object] = {
            "seed": one.seeds[0], "sigma2_init": np.float64(one.sigma2[0]),
            "learning_rate": one.learning_rate[0], "annealing": one.annealing[0],
        }  # fmt: skip
        places = np.unravel_index(i, grid.shape)
        place = tuple(p for p, size in zip(places, grid.shape, strict=True) if size > 1)
        for of in (sweep, loaded):
            found = of.run(**labels)
            text = of.run(**labels | {"annealing": str(one.annealing[0]), "learned": np.False_})
            for a, b, c in zip(*map(leaves, (found.params, text.params, of.params)), strict=True):
                np.testing.assert_array_equal(a, c.squeeze(2)[place])
                np.testing.assert_array_equal(a, b)
            assert found.table.identical(of.table.squeeze("learned").isel(
                dict(zip(("seed", "sigma2_init", "learning_rate", "annealing"), place, strict=True))
            ))  # fmt: skip
            assert found.table.gap.dims == ("step",)
    some = {"seed": 1, "sigma2_init": 0.5, "learning_rate": 0.01, "annealing": "none"}
    for labels, message in [
        (some | {"seed": 0}, r"seed: got 0, expected one of \[4, 1\]"),
        (some | {"seed": True}, r"seed: got True, expected one of \[4, 1\]"),
        (some | {"sigma2_init": 1.0}, r"sigma2_init: got 1\.0, expected one of \[0\.5, 3\.0\]"),
        (some | {"learned": 0}, r"learned: got 0, expected one of \[False\]"),
        (some | {"beta": 2.0}, r"beta: got 2\.0, expected one of \[1\.0\]"),
        (some | {"annealing": slow.steps}, r"annealing: got 10, expected one of \['none', '2 cyc"),
        (some | {"sigma2": 0.5}, r"sigma2: got 0\.5, expected one of the dimensions \['seed', 's"),
        ({"sigma2_init": 0.5, "learning_rate": 0.01}, r"seed: got no value, expected one of \[4, "),
    ]:
        with pytest.raises(ValueError, match=message):
            sweep.run(**labels)


@pytest.mark.parametrize(
    ("annealing", "expected"),
    [
        (Annealing(), [2, 2, 2, 2, 2, 2]),
        (Annealing(4), [0, 0.5, 1, 1.5, 2, 2]),
        (Annealing(4, 2, 0.5), [0, 2, 0, 2, 2, 2]),
        (Annealing(4, 1, 0.0), [2, 2, 2, 2, 2, 2]),
    ],
)
def test_annealed_weights(annealing, expected):
    hyper = training.Hyperparameters(beta=2.0, annealing=annealing)
    got = [float(training.beta_at(hyper, jnp.asarray(t))) for t in range(6)]
    np.testing.assert_allclose(got, expected, rtol=1e-12)


@pytest.mark.slow
def test_closed_form_noise_is_the_mean_square_error():
    """With exact gradients and everything else at rest, one step puts σ² on its maximiser."""
    lam = jnp.array([4.0, 2.0, 0.5])
    problem = linear_task.problem(mom.from_covariance(lam))
    task = linear_task.LinearTask(k=1)
    config = training.TrainConfig(num_steps=1, record_every=1, sigma2_update="closed_form")
    hyper = training.Hyperparameters(learning_rate=1e-30, sigma2=20.0)
    state = training.init(task, config, problem, hyper, jax.random.key(0))
    after = training.step(task, config, problem, hyper, state)
    terms = linear.elbo_terms(replace(state.params, log_sigma2=jnp.zeros(())), problem.moments)
    error = -2 * terms.reconstruction - 3 * jnp.log(2 * jnp.pi)  # σ² = 1 leaves it bare
    np.testing.assert_allclose(jnp.exp(after.params.log_sigma2), error / 3, rtol=1e-12)


@pytest.mark.slow
def test_linear_network_reaches_the_linear_prediction():
    """Sampled training of `linear.Model` against the closed form, at both σ²."""
    x = np.random.default_rng(0).normal(size=(2000, 6)) * np.sqrt([8, 4, 2, 0.6, 0.5, 0.4])
    task = network_task.NetworkTask(linear.Model(6, 3), batch_size=100)
    config = training.TrainConfig(num_steps=4000, record_every=4000)
    grid = sweeps.Grid(sigma2=(0.5, 3.0), learned=(False,), learning_rate=(0.02,))
    table = sweeps.run(task, config, network_task.prepare(x), grid, quiet=True).table.squeeze()
    # 3 standard errors of 2,000 reconstructions of one z; training noise is far smaller
    assert (abs(table.final_elbo - table.final_linear_elbo) < 0.1).all()
    np.testing.assert_array_equal(table.final_num_collapsed, table.final_linear_num_collapsed)
    np.testing.assert_allclose(
        np.sort(table.final_kl)[:, ::-1], table.final_linear_kl, atol=0.05
    )  # data drawn: λ differ by a few per cent, KL by half of that


# --- what is refused at the call, and what is kept when the end fails ---

SMALL = (
    linear_task.LinearTask(k=1),
    training.TrainConfig(num_steps=2, record_every=1),
    linear_task.problem(mom.from_covariance(jnp.array([2.0, 1.0]))),
    sweeps.Grid(),
)


@pytest.fixture
def no_training(monkeypatch) -> Iterator[None]:
    """Whatever is refused must be refused before; nor may annotations refuse it."""

    def begun(*args: object, **options: object) -> None:
        pytest.fail("it trains")

    monkeypatch.setattr(trainer.Trainer, "__init__", begun)
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attrs": {"a": None}}, r"attrs\['a'\]: got None, expected a text"),
        ({"attrs": {"fine": "x", "b": {"c": 1}}}, r"attrs\['b'\]: got \{'c': 1\}"),
        ({"attrs": {"where": Path("x")}}, r"attrs\['where'\]: got .*Path\('x'\)"),
        ({"attrs": {"CLASS": "x"}}, r"attrs\['CLASS'\]: got .x.*name in use"),
        ({"attrs": {"format": "mine"}}, r"attrs\['format'\]: got 'mine', expected another name"),
        ({"attrs": {"chunk": "8"}}, r"attrs\['chunk'\]"),
        ({"attrs": {"windows": "8"}}, r"attrs\['windows'\]"),
        ({"attrs": ["x"]}, "attrs: got list, expected a mapping"),
        ({"folder": 3}, "folder: got 3, expected a path"),
        ({"checkpoint_seconds": float("nan")}, "checkpoint_seconds: got nan, expected a number >="),
        ({"checkpoint_seconds": None}, "checkpoint_seconds: got None"),
        ({"memory": "8 GB"}, "memory: got '8 GB', expected a number >= 0"),
    ],
)
def test_what_cannot_be_used_is_refused_at_the_call(no_training, options, message):
    with pytest.raises(ValueError, match=message):
        sweeps.run(*SMALL, quiet=True, **options)


def test_other_things_in_place_of_task_data_and_grid_are_refused_by_name(no_training):
    task, config, problem, grid = SMALL
    x = np.random.default_rng(0).normal(size=(20, 2))
    network = network_task.NetworkTask(linear.Model(2, 1))
    in_windows = network_task.prepare(sources.Windows(x, 5, 0))
    for args, message in [
        (
            (task, config, x, grid),
            r"data: got ndarray of shape \(20, 2\), expected a Problem.*from_d",
        ),
        ((task, config, problem.moments, grid), "data: got Moments, expected a Problem"),
        (
            (network, config, x, grid),
            r"data: got ndarray of shape \(20, 2\), expected a Data.*prep",
        ),
        ((network, config, problem, grid), "data: got Problem, expected a Data"),
        ((task, config, in_windows, grid), "data: got Data, expected a Problem"),
        ((linear.Model(2, 1), config, problem, grid), "task: got Model, expected a Task"),
        ((task, {"num_steps": 2}, problem, grid), "config: got dict, expected a TrainConfig"),
        ((task, config, problem, {"seeds": (0,)}), "grid: got dict, expected a Grid"),
    ]:
        with pytest.raises(ValueError, match=message):
            sweeps.run(*args, quiet=True)
    with pytest.raises(
        ValueError, match=r"moments: got ndarray of shape \(20, 2\), expected a Mom"
    ):
        linear_task.problem(x)
    key = jax.random.key(0)
    for hyper, seed, message in [
        (training.Hyperparameters(), 0, "key: got 0, expected a key.*jax.random.key"),
        (training.Hyperparameters(), jax.random.split(key, 2), r"shape \(2,\), expected a key"),
        (training.Hyperparameters(), np.arange(2), "key: got an array of dtype int64"),
        ({"sigma2": 1.0}, key, "hyper: got dict, expected a Hyperparameters"),
    ]:
        with pytest.raises(ValueError, match=message):
            training.train(task, config, problem, hyper, seed)
    with pytest.raises(ValueError, match="data: got ndarray"):
        training.train(task, config, x, training.Hyperparameters(), key)


def test_a_folder_that_cannot_be_one_is_refused(no_training, tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "sweep" / "sweep.nc").mkdir(parents=True)
    for folder, message in [
        (tmp_path / "file", "file, which is a file, expected a folder"),
        (str(tmp_path / "file" / "below"), "where .*file is a file"),
        (tmp_path / "sweep", r"where sweep\.nc is a folder"),
    ]:
        with pytest.raises(ValueError, match=f"folder: got .*{message}"):
            sweeps.run(*SMALL, folder=folder, quiet=True)
    with pytest.raises(ValueError, match=r"folder: got .*file, which is a file"):
        sweeps.load(tmp_path / "file", SMALL[0], SMALL[2])
    assert (tmp_path / "file").read_text() == "mine"


def test_a_table_that_cannot_be_written_at_the_end_loses_no_run(tmp_path, monkeypatch):
    save = tables.save

    def full(table: object, path: Path) -> None:
        if path.name == "sweep.nc":
            raise OSError(errno.ENOSPC, f"{path} could not be written: No space left on device")
        save(table, path)

    monkeypatch.setattr(tables, "save", full)
    message = (
        r"sweep\.nc could not be written: No space left .* All 1 runs are in .*runs: run the same"
    )
    with pytest.raises(sweeps.NotSaved, match=message) as raised:
        sweeps.run(*SMALL, folder=tmp_path, quiet=True)
    monkeypatch.undo()
    assert not (tmp_path / "sweep.nc").exists()
    trained = []
    monkeypatch.setattr(trainer.Trainer, "start", lambda *args: trained.append(args))
    again = sweeps.run(*SMALL, folder=tmp_path, quiet=True)
    assert trained == []
    assert same_bits(raised.value.sweep, again)
    assert (tmp_path / "sweep.nc").exists()


@pytest.mark.slow
def test_integers_beyond_32_bits_and_numbers_of_any_kind_are_floats(no_training):
    with jax.enable_x64(False):
        grid = sweeps.Grid(sigma2=(2**31, np.int64(2**40), np.float32(0.1)), beta=(2**33,),
                           learning_rate=(3,), annealing=(Annealing(2**35),))  # fmt: skip
        hyper = grid.hyperparameters(jnp.float32)
        assert hyper.sigma2.tolist() == [2.0**31, 2.0**40, float(np.float32(0.1))]
        assert hyper.beta.tolist() == [2.0**33] * 3
        assert hyper.annealing.steps.tolist() == [2.0**35] * 3
        task, config, problem, _ = SMALL
        single = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), problem)
        for value in (2**31, 2.0**31):
            of = training.Hyperparameters(sigma2=value, learned=False)
            _, history = training.train(task, config, single, of, jax.random.key(0))
            np.testing.assert_allclose(history.sigma2, 2.0**31, rtol=1e-6)
    # the same run is the same folder, however the number was written
    one, other = sweeps.Grid(sigma2=(1,), learned=[np.True_]), sweeps.Grid(sigma2=[1.0])
    assert one == other
    assert tables.plain(one) == tables.plain(other)
    for changes, message in [
        ({"sigma2": ("1",)}, "sigma2: got "),
        ({"sigma2": (np.ones(2),)}, "sigma2: got "),
        ({"beta": (10**400,)}, "beta: got an integer beyond all floats"),
        ({"learned": ("yes",)}, "learned: got 'yes', expected True or False"),
        ({"learned": (1,)}, "learned: got 1, expected True or False"),
        ({"annealing": (100,)}, "annealing: got int, expected an Annealing"),
    ]:
        with pytest.raises(ValueError, match=message):
            sweeps.Grid(**changes)
