"""Candidates for a table: every small change of some files that a parser can think of, as rows to choose from.

    python -m benchmarks.mutants.propose curation/sds/asf.py [--sample N --seed S]

Comparisons, operators, constants, conditions, min and max, dropped calls, detaches and negations. Messages, annotations
and docstrings are left alone. Rows are candidates: keep those that mean something, and give them a name that says what.
"""

import argparse
import ast
import random
from collections.abc import Iterator

import yaml

from benchmarks.mutants.table import ROOT

COMPARED: dict[type[ast.cmpop], tuple[str, str]] = {
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.In: (" in ", " not in "),
    ast.NotIn: (" not in ", " in "),
    ast.Is: (" is ", " is not "),
    ast.IsNot: (" is not ", " is "),
}
COMBINED: dict[type[ast.operator], tuple[str, str]] = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "/"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "/"),
    ast.Pow: ("**", "*"),
    ast.BitOr: ("|", "&"),
    ast.BitAnd: ("&", "|"),
    ast.Mod: ("%", "//"),
}
NAMES = {
    **{"min": "max", "max": "min", "any": "all", "all": "any", "ceil": "floor", "floor": "ceil", "argmax": "argmin"},
    **{"sum": "mean", "mean": "sum", "clamp_min": "clamp_max", "INTER_NEAREST": "INTER_LINEAR", "BICUBIC": "BILINEAR"},
    **{"INTER_LINEAR": "INTER_NEAREST", "minimum": "maximum", "maximum": "minimum", "no_grad": "enable_grad"},
}
DROPPED = {"detach", "sort", "copy", "abs", "lower", "strip", "casefold", "unique", "sorted", "clip", "contiguous"}
SAID = {"fix", "found", "detail", "expected", "message", "hint", "where"}  # names that hold words for people


class _Edits(ast.NodeVisitor):
    """(start, end, new text) of each change, as offsets into the source."""

    def __init__(self, source: str) -> None:
        self.source = source
        starts = [0]
        for line in source.splitlines(keepends=True):
            starts.append(starts[-1] + len(line.encode()))
        self._starts = starts
        self.found: list[tuple[int, int, str]] = []

    def at(self, line: int, column: int) -> int:
        return self._starts[line - 1] + column

    def span(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        return self.at(node.lineno, node.col_offset), self.at(node.end_lineno or 0, node.end_col_offset or 0)

    def text(self, node: ast.expr | ast.stmt) -> str:
        start, end = self.span(node)
        return self.source[start:end]

    def swap(self, node: ast.expr | ast.stmt, new: str) -> None:
        self.found.append((*self.span(node), new))

    def between(self, left: ast.expr, right: ast.expr, old: str, new: str) -> None:
        start, end = self.span(left)[1], self.span(right)[0]
        if (place := self.source.find(old, start, end)) >= 0:
            self.found.append((place, place + len(old), new))

    def visit_Compare(self, node: ast.Compare) -> None:
        for op, left, right in zip(node.ops, [node.left, *node.comparators], node.comparators, strict=False):
            self.between(left, right, *COMPARED[type(op)])
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        if type(node.op) in COMBINED and not isinstance(node.left, ast.JoinedStr):
            self.between(node.left, node.right, *COMBINED[type(node.op)])
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        old, new = (" and ", " or ") if isinstance(node.op, ast.And) else (" or ", " and ")
        for left, right in zip(node.values, node.values[1:], strict=False):
            self.between(left, right, old, new)
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, ast.Not | ast.Invert | ast.USub) and not isinstance(node.operand, ast.Constant):
            self.swap(node, self.text(node.operand))
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, bool):
            self.swap(node, str(not node.value))
        elif isinstance(node.value, int):
            self.swap(node, str(node.value + 1))
        elif isinstance(node.value, float):
            self.swap(node, repr(node.value * 2 if node.value else 1.0))

    def visit_If(self, node: ast.If) -> None:
        self.swap(node.test, "False")
        self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self.swap(node, self.text(node.body))
        self.swap(node, self.text(node.orelse))
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        if isinstance(node.func, ast.Attribute) and name in DROPPED:
            self.swap(node, self.text(node.func.value))
        if name == "sorted" and node.args:
            self.swap(node, f"list({self.text(node.args[0])})")
        for keyword in node.keywords:
            if keyword.arg not in (None, "description", "default_factory"):
                self.visit(keyword.value)
        for arg in node.args:
            self.visit(arg)
        self.visit(node.func)

    def visit_Name(self, node: ast.Name) -> None:
        if node.id in NAMES and isinstance(node.ctx, ast.Load):
            self.swap(node, NAMES[node.id])

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if node.attr in NAMES:
            end = self.span(node)[1]
            self.found.append((end - len(node.attr), end, NAMES[node.attr]))
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self.swap(node, "pass")
        self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Call):
            self.swap(node, "pass")
        if not isinstance(node.value, ast.Constant):
            self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        names = {n.id for target in node.targets for n in ast.walk(target) if isinstance(n, ast.Name)}
        if not names & SAID:
            self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        for part in (*node.args.defaults, *(d for d in node.args.kw_defaults if d is not None), *node.body):
            self.visit(part)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for statement in node.body:
            self.visit(statement)

    def visit_arg(self, node: ast.arg) -> None:
        pass

    def visit_Raise(self, node: ast.Raise) -> None:
        pass

    def visit_Assert(self, node: ast.Assert) -> None:
        pass

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        pass


def candidates(file: str) -> Iterator[tuple[str, str, str]]:
    """(name, old text, new text) for every change of `file` whose place can be named by one or two lines."""
    source = (ROOT / file).read_text(encoding="utf-8")
    if not source.isascii():  # offsets of the parser are bytes
        source = "".join(ch if ch.isascii() else "?" for ch in source)
    edits = _Edits(source)
    edits.visit(ast.parse(source))
    original = (ROOT / file).read_text(encoding="utf-8")
    for start, end, new in dict.fromkeys(edits.found):
        first = original.rfind("\n", 0, start) + 1
        last = original.find("\n", end)
        first += len(original[first:]) - len(original[first:].lstrip(" "))
        for a, b in ((start, end), (first, last), (first, original.find("\n", last + 1))):
            old = original[a:b]
            if len(old) > 3 and original.count(old) == 1:
                yield (
                    f"line-{original[:start].count(chr(10)) + 1}-{start}",
                    old,
                    old[: start - a] + new + old[end - a :],
                )
                break


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("files", nargs="+")
    parser.add_argument("--sample", type=int)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    rows = [(file, *row) for file in given.files for row in candidates(file)]
    if given.sample is not None and given.sample < len(rows):
        kept = sorted(random.Random(given.seed).sample(range(len(rows)), given.sample))
        rows = [rows[i] for i in kept]
    table: dict[str, dict[str, list[str]]] = {}
    for file, name, old, new in rows:
        table.setdefault(file, {})[name] = [old, new]
    print(yaml.safe_dump({"mutants": table}, sort_keys=False, width=10_000, allow_unicode=True))


if __name__ == "__main__":
    main()
