"""What stands in the line of source that an op came from? The file is read and parsed, nothing in it is run."""

from __future__ import annotations

import ast
import linecache
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

from fixshape.audit._report import Location

_LARGEST = 4 << 20  # bytes: no file that a person wrote is longer, and a parser's time and memory grow with it
_BODIES = frozenset({"body", "orelse", "finalbody", "handlers", "cases"})


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a statement.

    Args:
        statement: the innermost statement that covers the line.
        nodes: expressions of the statement that cover the line, outer ones first; of a compound statement only those of its
            head.
        parents: what each expression is a part of.
    """

    statement: ast.stmt
    nodes: tuple[ast.expr, ...]
    parents: Mapping[ast.AST, ast.AST]


def read_line(location: Location | None) -> Line | None:
    """The line, or None where the file is missing, too large, not Python, or has no statement there."""
    found = enclosing(location, ast.stmt)
    if location is None or not found:
        return None
    statement = found[-1]
    parents = {child: node for node in _head(statement) for child in ast.iter_child_nodes(node)}
    nodes = tuple(node for node in _head(statement) if isinstance(node, ast.expr) and covers(node, location.line))
    return Line(statement, nodes, parents)


def enclosing(location: Location | None, kinds: type[ast.stmt] | tuple[type[ast.stmt], ...]) -> list[ast.stmt]:
    """Statements of the kinds that cover the line, outer ones first."""
    tree = None if location is None else _tree(location.file, _stamp(location.file))
    if location is None or tree is None:
        return []
    found: list[ast.stmt] = []
    inside = list(ast.iter_child_nodes(tree))
    while inside:
        node = inside.pop()
        # An except clause and a case of a match hold statements and are none themselves.
        if isinstance(node, (ast.stmt, ast.excepthandler, ast.match_case)):
            if isinstance(node, ast.match_case) or covers(node, location.line):
                inside.extend(ast.iter_child_nodes(node))
                if isinstance(node, kinds):
                    found.append(node)
    return sorted(found, key=lambda node: (node.lineno, node.col_offset))


def covers(node: ast.stmt | ast.expr | ast.excepthandler, line: int) -> bool:
    """Whether the node has a part in the line."""
    decorators: list[ast.expr] = getattr(node, "decorator_list", [])  # above the line that counts as the first
    first = min([node.lineno, *(decorator.lineno for decorator in decorators)])
    return first <= line <= (node.end_lineno or node.lineno)


def _head(statement: ast.stmt) -> Iterator[ast.AST]:
    yield statement
    for name, value in ast.iter_fields(statement):
        if name not in _BODIES:
            for part in value if isinstance(value, list) else [value]:
                if isinstance(part, ast.AST):
                    yield from ast.walk(part)


def _stamp(file: str) -> tuple[int, int] | None:
    try:
        status = os.stat(file)
    except (OSError, ValueError):
        return None  # a cell of a notebook, which linecache knows, or nothing at all
    return (status.st_mtime_ns, status.st_size if stat.S_ISREG(status.st_mode) else _LARGEST + 1)


@lru_cache(maxsize=256)
def _tree(file: str, stamp: tuple[int, int] | None) -> ast.Module | None:
    if stamp is not None and stamp[1] > _LARGEST:
        return None
    linecache.checkcache(file)
    try:
        return ast.parse("".join(linecache.getlines(file)))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
