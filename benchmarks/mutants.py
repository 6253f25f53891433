"""The mistakes that people make in formulas, put into a module one at a time.

| kind | what changes |
| --- | --- |
| factor | a term, a sum, a product or a constant is doubled |
| sign | + and −, a minus or a `~` that is lost |
| dropped | one term of a sum, or a factor |
| inverted | × and ÷ |
| swapped | the operands of −, ÷ and @, or two arguments of a call |
| off by one | an integer, or a bound of a slice or a range |
| comparison | <, <= and >, == and !=, & and |, max and min, all and any |

Not changed: docstrings, annotations, default values, `axis=` and the like, and the checks of input
with their messages (tests/test_errors.py is for those).
"""

import ast
from collections import Counter
from dataclasses import dataclass, replace

# to swap these arguments is no mistake, or one that shows at once
_UNSWAPPED = {
    "minimum", "maximum", "hypot", "asarray", "astype", "array", "full", "zeros", "ones", "pad",
    "reshape", "partial", "replace", "getattr", "isinstance", "zip", "einsum", "take", "put",
    "vmap", "jit", "grad", "default_rtol", "in_axes", "broadcast_to", "normal", "map", "setattr",
    "range", "arange", "fori_loop", "scan", "while_loop", "cond", "issubdtype", "linspace", "set",
}  # fmt: skip
_NO_FORMULA = {"axis", "dtype", "mode", "batch_size", "chunk", "static_argnames", "side", "stable"}
_TWINS = {
    "minimum": "maximum", "maximum": "minimum", "min": "max", "max": "min", "argmin": "argmax",
    "argmax": "argmin", "all": "any", "any": "all",
}  # fmt: skip
_OTHER = {
    ast.Lt: (ast.LtE, ast.Gt), ast.LtE: (ast.Lt,), ast.Gt: (ast.GtE, ast.Lt), ast.GtE: (ast.Gt,),
    ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,),
}  # fmt: skip
_ARITHMETIC = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Pow, ast.MatMult)


@dataclass(frozen=True)
class Mutant:
    """One mistake.

    Attributes:
        file: from the root of the repository.
        function: where, by name.
        line: of the formula, from 1.
        kind: of mistake.
        before: the formula.
        after: what stands there instead.
        start: where, in bytes of the file.
        end: likewise.
        copy: which of several that are alike in all but their place, from 0.
    """

    file: str
    function: str
    line: int
    kind: str
    before: str
    after: str
    start: int
    end: int
    copy: int = 0

    def applied(self, source: bytes) -> bytes:
        """The file with the mistake in it."""
        return source[: self.start] + self.after.encode() + source[self.end :]


def _name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def _checks_input(node: ast.stmt) -> bool:
    """Whether a statement looks at input, or makes its error message, and does nothing else."""
    if isinstance(node, ast.Raise):
        return True
    if isinstance(node, ast.If):
        return not node.orelse and all(_checks_input(child) for child in node.body)
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Call | ast.Constant)


def _is_reading(node: ast.AST) -> bool:
    """Whether an expression is a call of `checks` or of the readers of arrays."""
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
        return False
    module, name = _name(node.func.value), node.func.attr
    return module == "checks" or (module == "arrays" and name not in ("less", "put"))


class _Formulas(ast.NodeVisitor):
    """Goes through a module and notes (function, kind, node, what to put there)."""

    def __init__(self) -> None:
        self.found: list[tuple[str, str, ast.expr, str]] = []
        self.scope: list[str] = []

    def note(self, kind: str, node: ast.expr, after: ast.expr | str) -> None:
        text = after if isinstance(after, str) else f"({ast.unparse(after)})"
        if text != f"({ast.unparse(node)})":  # as what swapping equals leaves would be
            self.found.append((".".join(self.scope), kind, node, text))

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._body(node.name, node.body)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        if not node.name.lstrip("_").startswith("check") and node.name != "__post_init__":
            self._body(node.name, node.body)

    def _body(self, name: str, body: list[ast.stmt]) -> None:
        self.scope.append(name)
        for child in body:
            self.visit(child)
        self.scope.pop()

    def visit(self, node: ast.AST) -> None:
        skipped = ast.Import | ast.ImportFrom | ast.JoinedStr
        if isinstance(node, skipped) or _is_reading(node):
            return
        if isinstance(node, ast.stmt) and _checks_input(node):
            return
        if not self.scope and isinstance(node, ast.stmt) and not _is_definition(node):
            return
        super().visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_keyword(self, node: ast.keyword) -> None:
        if node.arg not in _NO_FORMULA:
            self.visit(node.value)

    def visit_Constant(self, node: ast.Constant) -> None:
        if type(node.value) is int:
            self.note("off by one", node, str(node.value + 1))
        elif isinstance(node.value, float):
            self.note("factor", node, repr(2 * node.value or 1.0))

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, ast.USub | ast.Invert | ast.Not):
            self.note("sign", node, node.operand)
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        def other(op: ast.operator, left: ast.expr, right: ast.expr) -> ast.expr:
            return ast.BinOp(left, op, right)

        left, right = node.left, node.right
        if isinstance(node.op, ast.BitAnd | ast.BitOr):
            op = ast.BitOr() if isinstance(node.op, ast.BitAnd) else ast.BitAnd()
            self.note("comparison", node, other(op, left, right))
        if isinstance(node.op, ast.Add | ast.Sub):
            op = ast.Sub() if isinstance(node.op, ast.Add) else ast.Add()
            self.note("sign", node, other(op, left, right))
            self.note("dropped", node, left)
            self.note("dropped", node, right)
            for term in (left, right):
                if not isinstance(term, ast.Constant | ast.BinOp):
                    self.note("factor", term, other(ast.Mult(), ast.Constant(2), term))
        if isinstance(node.op, ast.Mult | ast.Div):
            op = ast.Div() if isinstance(node.op, ast.Mult) else ast.Mult()
            self.note("inverted", node, other(op, left, right))
            self.note("dropped", node, left)
        if isinstance(node.op, ast.Sub | ast.Div | ast.MatMult):
            self.note("swapped", node, other(node.op, right, left))
        if isinstance(node.op, _ARITHMETIC):
            self.note("factor", node, other(ast.Mult(), ast.Constant(2), node))
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        self.note("comparison", node, ast.BoolOp(op, node.values))
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        for place, op in enumerate(node.ops):
            for kind in _OTHER.get(type(op), ()):
                ops = [*node.ops[:place], kind(), *node.ops[place + 1 :]]
                self.note("comparison", node, ast.Compare(node.left, ops, node.comparators))
        self.generic_visit(node)

    def visit_Slice(self, node: ast.Slice) -> None:
        for bound in (node.lower, node.upper):
            if isinstance(bound, ast.Name):
                self.note("off by one", bound, f"{bound.id} + 1")
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        name, args = _name(node.func), list(node.args)
        if name in ("range", "arange") and isinstance(args[-1], ast.Name):
            self.note("off by one", args[-1], f"{ast.unparse(args[-1])} + 1")
        if name in _TWINS and isinstance(node.func, ast.Attribute):
            func = ast.Attribute(node.func.value, _TWINS[name], node.func.ctx)
            self.note("comparison", node, ast.Call(func, args, node.keywords))
        starred = any(isinstance(a, ast.Starred | ast.Constant | ast.Lambda) for a in args[:2])
        if len(args) >= 2 and name not in _UNSWAPPED and not starred:
            i = 1 if name == "where" and len(args) == 3 else 0
            args[i], args[i + 1] = args[i + 1], args[i]
            self.note("swapped", node, ast.Call(node.func, args, node.keywords))
        self.generic_visit(node)


def _is_definition(node: ast.stmt) -> bool:
    """Of a module's own statements: a function, a class, or a number with a name."""
    number = isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
    return number or isinstance(node, ast.FunctionDef | ast.ClassDef)


def of_source(file: str, source: bytes) -> list[Mutant]:
    """All mutants of a file's text, in its order."""
    lines = [0]
    for line in source.splitlines(keepends=True):
        lines.append(lines[-1] + len(line))
    formulas = _Formulas()
    formulas.visit(ast.parse(source))
    found: dict[tuple[int, int, str], Mutant] = {}
    for function, kind, node, after in formulas.found:
        start = lines[node.lineno - 1] + node.col_offset
        end = lines[(node.end_lineno or 0) - 1] + (node.end_col_offset or 0)
        before = source[start:end].decode()
        mutant = Mutant(file, function, node.lineno, kind, before, after, start, end)
        found.setdefault((start, end, after), mutant)
    alike: Counter[tuple[str, ...]] = Counter()
    numbered = []
    for m in sorted(found.values(), key=lambda m: (m.start, m.end, m.after)):
        name = (m.function, m.kind, m.before, m.after)
        numbered.append(replace(m, copy=alike[name]))
        alike[name] += 1
    return numbered


def formulas_of(source: bytes) -> dict[str, str]:
    """Each function and class of a module without names of types, docstrings and layout.

    The text is the same as long as the formulas are the same.
    """
    found = {}
    for top in ast.parse(source).body:
        if not isinstance(top, ast.ClassDef | ast.FunctionDef):
            continue
        for node in ast.walk(top):
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
                node.body = node.body[1:]
            if isinstance(node, ast.FunctionDef):
                node.returns = None
            if isinstance(node, ast.arg | ast.AnnAssign):
                node.annotation = ast.Constant(None)
        found[top.name] = ast.dump(top)
    return found
