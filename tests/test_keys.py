"""Each random key is used once: read off the code of both packages, and seen as the tasks run."""

import ast
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landscape.autodiff import lanczos, lobpcg
from landscape.paper.linear import measurements
from landscape.points import search
from landscape.studies import linear as linear_study
from landscape.studies import network_spectra
from landscape.studies import networks as network_study
from linvae_jax import (
    evaluation,
    linear_task,
    network_task,
    networks,
    ppca,
    streams,
    sweeps,
    training,
)
from linvae_jax import moments as mom
from linvae_jax.data import preprocessing, synthetic

ROOT = Path(__file__).parent.parent
FILES = [p for name in ("linvae_jax", "landscape") for p in sorted((ROOT / name).rglob("*.py"))]
KEY = re.compile(r"(?!jax\.)(\w+\.)*(\w+_)?key(_\w+)?")  # key, key_z, state.key

Use = tuple[str, str]  # of one key: how ("fold", "clone", "other"), and by which purpose


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.Lambda]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.Lambda):
            yield node


def called(node: ast.Call) -> str:
    return ast.unparse(node.func).rsplit(".", 1)[-1]


def keys_in(node: ast.AST) -> Iterator[str]:
    """Keys among the arguments of a call, but for those of calls inside."""
    text = ast.unparse(node) if isinstance(node, ast.Name | ast.Attribute) else ""
    if text and KEY.fullmatch(text):
        yield text
    elif isinstance(node, ast.Starred | ast.Tuple | ast.List | ast.keyword | ast.IfExp):
        for child in ast.iter_child_nodes(node):
            yield from keys_in(child)


def uses(node: ast.AST, repeated: bool = False) -> dict[str, list[Use]]:
    """Uses of each key on that way through the code which has most of them.

    What is repeated, by a loop, a comprehension or a function inside, counts twice, unless the key
    is bound there or the purpose it is folded for is no constant.
    """
    if isinstance(node, list):
        return block(node, repeated)
    if isinstance(node, ast.If):
        return together(uses(node.test, repeated), either(node.body, node.orelse, repeated))
    found: dict[str, list[Use]] = {}
    if isinstance(node, ast.Call):
        arguments = [*node.args, *node.keywords]
        mapped = called(node) == "map" and ast.unparse(node.args[0]).endswith("random.clone")
        for name in () if mapped else [k for a in arguments for k in keys_in(a)]:
            how, purpose = "other", ""
            if called(node) in ("fold_in", "branch"):
                how, purpose = "fold", ast.unparse(node.args[1])
            elif called(node) == "clone" or ast.unparse(node.func) == "checks.key":
                continue  # a check looks at it and draws nothing
            times = 2 if repeated and (how == "other" or _is_constant(purpose)) else 1
            found.setdefault(name, []).extend([(how, purpose)] * times)
    loops = (
        ast.For, ast.While, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp,
        ast.FunctionDef, ast.Lambda,
    )  # fmt: skip
    inside = isinstance(node, loops)
    parts = []
    for field, value in ast.iter_fields(node):
        # what a loop goes over is looked at once
        once = isinstance(node, ast.For) and field in ("iter", "orelse")
        for child in value if isinstance(value, list) and field not in BLOCKS else [value]:
            if isinstance(child, ast.comprehension):
                parts.append(uses(child.iter, repeated))
                parts += [uses(test, True) for test in child.ifs]
            elif isinstance(child, ast.AST | list):
                parts.append(uses(child, repeated or (inside and not once)))
    found = together(found, *parts)
    for name in bound(node) if inside else ():
        own = found.pop(name, None)
        if own and not isinstance(node, ast.FunctionDef | ast.Lambda):
            # as if it were bound once: its uses by half
            found[f"{name} of line {node.lineno}"] = halved(own)
    return found


BLOCKS = ("body", "orelse", "finalbody")


def halved(of: list[Use]) -> list[Use]:
    """Uses counted twice, once."""
    left: list[Use] = []
    for use in dict.fromkeys(of):
        left += [use] * -(-of.count(use) // 2)
    return left


def bound(node: ast.AST) -> set[str]:
    """Names bound in a function or loop, not in functions inside it."""
    names: set[str] = set()
    if isinstance(node, ast.FunctionDef | ast.Lambda):
        a = node.args
        names |= {x.arg for x in (*a.posonlyargs, *a.args, *a.kwonlyargs)}
    stack = list(ast.iter_child_nodes(node))
    while stack:
        child = stack.pop()
        if isinstance(child, ast.FunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.Name) and isinstance(child.ctx, ast.Store):
            names.add(child.id)
        stack += ast.iter_child_nodes(child)
    return names


def together(*found: dict[str, list[Use]]) -> dict[str, list[Use]]:
    total: dict[str, list[Use]] = {}
    for one in found:
        for name, of in one.items():
            total.setdefault(name, []).extend(of)
    return total


def either(a: list[ast.stmt], b: list[ast.stmt], repeated: bool) -> dict[str, list[Use]]:
    first, second = block(a, repeated), block(b, repeated)
    return {
        name: max(first.get(name, []), second.get(name, []), key=len) for name in first | second
    }


def block(statements: list, repeated: bool) -> dict[str, list[Use]]:
    total: dict[str, list[Use]] = {}
    for i, statement in enumerate(statements):
        if isinstance(statement, ast.If) and isinstance(
            statement.body[-1], ast.Return | ast.Raise | ast.Continue
        ):
            rest = [*statement.orelse, *statements[i + 1 :]]
            return together(
                total, uses(statement.test, repeated), either(statement.body, rest, repeated)
            )
        if isinstance(statement, ast.AST):
            total = together(total, uses(statement, repeated))
    return total


def faults(source: str) -> list[str]:
    """Where a key is used more than once in a function, or bound twice."""
    found = []
    tree = ast.parse(source)
    for function in functions(tree):
        where = f"{getattr(function, 'name', 'lambda')}:{function.lineno}"
        body = function.body if isinstance(function.body, list) else [function.body]
        for name, of in block(body, False).items():
            folds = [purpose for how, purpose in of if how == "fold"]
            others = len(of) - len(folds)
            constant = [purpose for purpose in folds if _is_constant(purpose)]
            if others > 1:
                found.append(f"{where}: {name} is used twice")
            elif others and folds:
                found.append(f"{where}: {name} is folded, and used otherwise")
            elif len(set(folds)) < len(folds) or (constant and len(constant) < len(folds)):
                found.append(f"{where}: {name} is folded twice for one purpose")
            elif len(folds) > 1 and not constant:
                found.append(f"{where}: {name} is folded for two purposes without names")
        bindings = [
            node.id
            for statement in body
            for node in own_nodes(statement)
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
        ]
        parameters = [a.arg for a in (*function.args.args, *function.args.kwonlyargs)]
        again = {n for n in bindings if (bindings + parameters).count(n) > 1}
        found += [f"{where}: {name} is bound twice" for name in again if KEY.fullmatch(name)]
    for inner in ast.walk(tree):
        text = ast.unparse(inner) if isinstance(inner, ast.Attribute) else ""
        if text in ("np.random", "numpy.random"):
            found.append(f"line {inner.lineno}: a generator of NumPy")
        if text in ("jax.random.key", "jax.random.PRNGKey"):
            found.append(f"line {inner.lineno}: a key that is not of `streams`")
    return found


def own_nodes(statement: ast.AST) -> Iterator[ast.AST]:
    """Nodes of a function's own scope."""
    stack = [statement]
    while stack:
        node = stack.pop()
        if not isinstance(node, ast.FunctionDef | ast.Lambda):
            yield node
            stack += ast.iter_child_nodes(node)


def _is_constant(purpose: str) -> bool:
    return isinstance(ast.parse(purpose, mode="eval").body, ast.Constant)


ALLOWED = {
    "linvae_jax/streams.py": r"a key that is not of `streams`",
    "linvae_jax/sources.py": r"a generator of NumPy",  # its docstring says why
    # numbers that tests draw, by a seed of Hypothesis: JAX would compile a program for each shape
    "landscape/testing/laws.py": r"a generator of NumPy",
    "landscape/testing/strategies.py": r"a generator of NumPy",
}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_each_key_is_used_once(path):
    allowed = ALLOWED.get(str(path.relative_to(ROOT)))
    found = faults(path.read_text())
    assert bool(found) == (allowed is not None)
    assert all(allowed and re.search(allowed, fault) for fault in found)


WRONG = {
    "drawn from twice": """
def f(key):
    return jax.random.normal(key) + jax.random.uniform(key)
""",
    "drawn from, then folded (`network_task`)": """
def gradient(self, key):
    key_batch, key_z = jax.random.split(key)
    rows = jax.random.randint(key_batch, (3,), 0, 9)
    x = self.transform(rows, jax.random.fold_in(key_batch, 1))
    return g(x, key_z)
""",
    "folded, then passed on in a function inside (`trained`)": """
def escape_of_sweep(key, draws):
    keys = jax.random.split(jax.random.fold_in(key, 0), draws)

    def at_network(params):
        return escape_path(params, key)

    return at_network, keys
""",
    "passed on by a function inside, once for each call": """
def f(key):
    def at_network(params):
        return escape_path(params, key)

    return [at_network(p) for p in range(3)]
""",
    "passed on in a loop": """
def f(key):
    for i in range(3):
        g(i, key)
""",
    "bound again (`lobpcg`)": """
def f(key):
    key_check, key = jax.random.split(key)
    vectors = jax.random.normal(key, (3, 2))
    while True:
        key, key_new = jax.random.split(key)
        vectors = jax.random.normal(key_new, (3, 2))
""",
    "folded twice for one purpose": """
def f(key):
    return jax.random.fold_in(key, 1), jax.random.fold_in(key, 1)
""",
    "folded by a number and by another (`training`)": """
def step(state):
    return jax.random.fold_in(state.key, state.step), jax.random.fold_in(state.key, 2**31)
""",
    "folded for one purpose in a loop": """
def f(key):
    return [jax.random.fold_in(key, 1) for _ in range(3)]
""",
    "by keyword, and among starred arguments": """
def f(key):
    return g(*(1, key)) + g(key=key)
""",
    "in one branch, and after it": """
def f(key, a):
    if a:
        g(key)
    return g(key)
""",
    "a seed of NumPy": """
def f(seed):
    return np.random.default_rng(seed).normal()
""",
    "a seed without a purpose": """
def f(seed):
    return g(jax.random.key(seed))
""",
}

RIGHT = """
def f(key, transform, a):
    if key is None:
        raise ValueError
    if a:
        return g(key)
    key_x, key_y, key_more = jax.random.split(key, 3)
    if a > 1:
        x = jax.random.normal(key_x)
    else:
        x = jax.random.uniform(key_x)
    for i in range(3):
        key_new = jax.random.fold_in(key_more, i)
        x += jax.random.normal(key_new)
    def at(point):
        return g(point, jax.random.clone(key_y))
    def real(i):
        return transform(jax.random.fold_in(key_y, i))
    return [h(key_one) for key_one in jax.random.split(g(at), 3)]

def key_of(state, purpose):
    return jax.random.fold_in(streams.branch(state.key, purpose), state.step)

def two(key):
    return streams.branch(key, "a"), streams.branch(key, "b")
"""


@pytest.mark.parametrize("name", WRONG)
def test_what_reads_the_code_sees_keys_used_twice(name):
    assert faults(WRONG[name])


def test_what_reads_the_code_lets_keys_used_once_pass():
    assert faults(RIGHT) == []


def test_purposes_are_literal_texts_with_keys_of_their_own():
    purposes = set()
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "streams.key":
                purposes.add(ast.literal_eval(node.args[1]))
    assert purposes >= {"training", "data noise", "curvature", "spectra", "claims", "searches"}
    assert len({zlib.crc32(purpose.encode()) for purpose in purposes}) == len(purposes)


def numbers(key: jax.Array) -> tuple[int, ...]:
    return tuple(np.asarray(jax.random.key_data(key)).tolist())


def test_each_seed_and_purpose_has_a_key_of_its_own_in_both_precisions():
    seeds, purposes = (0, 1, 2**31, np.int64(2**32 - 1)), ("training", "data noise", "", "σ²")
    with jax.enable_x64(True):
        wide = {(s, p): numbers(streams.key(s, p)) for s in seeds for p in purposes}
    with jax.enable_x64(False):
        narrow = {(s, p): numbers(streams.key(s, p)) for s in seeds for p in purposes}
    assert wide == narrow
    assert len(set(wide.values())) == len(wide)
    # nor is it a key of the seed itself, which users may have
    assert not set(wide.values()) & {numbers(jax.random.key(int(s))) for s in seeds}


@pytest.mark.parametrize("seed", [True, 1.0, "1", None, -1, 2**32, np.uint64(2**40), 10**30])
def test_what_is_no_seed_is_refused(seed):
    with pytest.raises(
        ValueError, match=r"data_seed: got .*, expected (an integer|0 <= data_seed)"
    ):
        streams.key(seed, "data noise", "data_seed")
    if isinstance(seed, int):  # others are refused by the types here, which users don't check
        with pytest.raises(ValueError, match=r"seeds: got .*, expected (an integer|0 <= seeds)"):
            sweeps.Grid(seeds=(0, seed))


def test_a_grid_has_each_value_once():
    twice = {
        "seeds": (3, 1, 3),
        "sigma2": (1.0, 2.0, np.float64(1)),
        "learned": (True, True),
        "learning_rate": (0.1, 0.2, 0.1),
        "beta": (0.0, -0.0),
        "annealing": (training.Annealing(5), training.Annealing(5)),
    }
    for name, values in twice.items():
        with pytest.raises(ValueError, match=rf"^{name}: got .* twice, expected each value once"):
            sweeps.Grid(**{name: values})
    assert sweeps.Grid(seeds=(0, 1, 2), sigma2=(1.0, 2.0), learned=(True, False)).size == 12


@pytest.mark.slow
def test_steps_records_and_the_end_draw_from_streams_of_their_own():
    """Also where they look at the same step, as the last record and the end do."""
    seen: dict[str, tuple[int, ...]] = {}

    class Task(network_task.NetworkTask):
        def gradient(self, data, params, beta, key):
            seen["step"] = numbers(key)
            return params

        def observe(self, data, params, hyper, key) -> Any:
            seen["record"] = numbers(key)

        def totals(self, data, first, params, key) -> Any:
            seen["end"] = numbers(key)

    task, data = Task(networks.Mlp(4, 1, (3,), (3,))), data_of_four()
    config, hyper = training.TrainConfig(2, 2), training.Hyperparameters()
    state = training.init(task, config, data, hyper, jax.random.key(0))
    ran = numbers(state.key)
    training.step(task, config, data, hyper, state)
    training.observe(task, data, hyper, state)
    training.totals(task, data, 0, state)
    assert len({*seen.values(), ran}) == 4


def test_noise_of_pixels_is_not_made_from_the_bits_that_choose_rows(monkeypatch):
    """`randint` draws from the very bits that a key folded with small numbers consists of."""
    taken: dict[str, jax.Array] = {}

    class Transform:
        def __call__(self, pixels, key):
            taken["noise"] = key
            return jnp.asarray(pixels, jnp.float32)

    model = networks.Mlp(4, 1, (3,), (3,))
    task = network_task.NetworkTask(model, 2, Transform())
    monkeypatch.setattr(training, "sampled_gradient", lambda *_: None)  # takes seconds to compile
    key = jax.random.key(0)
    task.gradient(data_of_four(), None, 1.0, key)
    two = [jax.random.fold_in(one, i) for one in jax.random.split(key) for i in range(8)]
    assert numbers(taken["noise"]) not in {numbers(one) for one in two}
    assert numbers(taken["noise"]) in {numbers(one) for one in jax.random.split(key, 3)}


def data_of_four() -> network_task.Data:
    x = np.random.default_rng(0).normal(size=(40, 4)) * np.sqrt([4, 3, 2, 1])
    return network_task.prepare(x)


PIXELS = np.random.default_rng(0).integers(0, 256, (60, 5), np.uint8)


def sweep_of_networks() -> tuple[network_task.NetworkTask, network_task.Data, sweeps.Sweep]:
    transform = preprocessing.Logit(0.05)
    data = network_task.prepare(PIXELS, transform, streams.key(0, "data noise"))
    model = networks.Mlp(5, 2, (4,), (4,))
    task = network_task.NetworkTask(model, 8, transform, observed=20)
    grid = sweeps.Grid(seeds=(0, 1), learned=(True,))  # two networks show what they share
    return task, data, sweeps.run(task, training.TrainConfig(4, 2), data, grid, quiet=True)


def networks_and_their_curvature() -> None:
    task, data, sweep = sweep_of_networks()
    key_escape, key_spectra, key_eval = jax.random.split(jax.random.key(3), 3)
    args = (task, data, sweep)
    network_study.escape_of_sweep(*args, key_escape, (0.5, 1.0), draws=2, quiet=True)
    network_spectra.spectra_of_sweep(*args, key_spectra, (0.5, 1.0), probes=2, steps=3, quiet=True)
    params = sweep.run(seed=0).params
    evaluation.evaluate(
        task.model, params, PIXELS, data.mean, key_eval, transform=task.transform, batch_size=16
    )


def linear_sweep_with_sampled_gradients() -> None:
    key_x, key_train = jax.random.split(jax.random.key(1))
    x = synthetic.gaussian(key_x, jnp.array([4.0, 2.0, 1.0]), 50)
    problem = linear_task.problem(mom.from_data(x), x)
    task, config = linear_task.LinearTask(1, "sampled", 8), training.TrainConfig(4, 2)
    sweeps.run(task, config, problem, sweeps.Grid(seeds=(0, 1)), quiet=True)
    training.train(task, config, problem, training.Hyperparameters(), key_train)


def quartic(x: jax.Array) -> jax.Array:
    return (jnp.arange(40.0) * x**2).sum() - (x**4).sum()


def matrix_free() -> None:
    key_probes, key_start, key_grow = jax.random.split(jax.random.key(1), 3)
    point = jnp.full(40, 0.1)
    lanczos.quadrature(quartic, point, key_probes, probes=2, steps=4)
    lobpcg.extremes(quartic, point, key_start, 1, max_rounds=3)
    # five equal ones are more than the block of one it starts with holds: it grows
    spread = jnp.repeat(jnp.arange(4.0), 25)
    found = lobpcg.extremes(lambda x: (spread * x**2).sum(), jnp.ones(100), key_grow, 1)
    assert found.multiplicity[0] > 6


def searches_and_claims() -> None:
    linear_study.searches([(2, 1)], num_starts=3, seed=0)
    key_search, key_random, key_sample = jax.random.split(jax.random.key(1), 3)
    lam = jnp.array([4.0, 2.0])
    search.search(lam, 1, 0.5, key_search, 3)
    measurements.random_assignment(key_random, lam, 1, 0.5)
    model = ppca.PPCA(jnp.ones((2, 1)), jnp.asarray(1.0), jnp.zeros(2))
    ppca.sample(model, key_sample, 3)


@pytest.mark.slow
@pytest.mark.parametrize(
    "task",
    [
        networks_and_their_curvature,
        linear_sweep_with_sampled_gradients,
        matrix_free,
        searches_and_claims,
    ],
    ids=lambda f: f.__name__,
)
def test_jax_sees_no_key_used_twice(task):
    """Which holds for splitting and drawing; `fold_in` counts as no use for JAX."""
    with jax.debug_key_reuse(True):
        task()


def test_jax_would_have_seen_it():
    key = jax.random.key(0)
    with jax.debug_key_reuse(True), pytest.raises(jax.errors.KeyReuseError):
        assert jax.random.normal(key) + jax.random.normal(key)


@pytest.mark.slow
@pytest.mark.parametrize("sigma2", [0.2, 2.0, 10.0])  # 5, 2 and none of 5 components above it
def test_random_points_are_stationary_points_of_every_kind(sigma2):
    lam, k = np.array([6.0, 4.0, 1.5, 0.5, 0.3]), 3
    some = [
        measurements.random_assignment(key, jnp.asarray(lam), k, sigma2)
        for key in jax.random.split(jax.random.key(0), 60)
    ]
    for a in some:
        active = a[a >= 0]
        assert len(set(active.tolist())) == len(active)
        assert (lam[active] > sigma2).all()
    most = min(k, int((lam > sigma2).sum()))
    # 60 draws miss one of four numbers with probability 4 (3/4)⁶⁰ = 1e-7
    assert {int((a >= 0).sum()) for a in some} == set(range(most + 1))
