"""What would the line look like without it? The rewrite, with the names that stand in the line, where they can be read from it.

One small function for each code looks for the call in the line and writes its static form; where it finds none, the general
rewrite of the catalogue is given. Source is parsed and never run.
"""

from __future__ import annotations

import ast
import builtins
import sys
from collections.abc import Callable, Iterator, Sequence

from fixshape.audit._catalogue import CATALOGUE
from fixshape.audit._report import Location
from fixshape.audit._rules import called
from fixshape.audit._source import Line, read_line

_Writer = Callable[[Line, Sequence[str]], str]
_LONGEST = 400  # characters of a suggestion

_LOSSES = {
    "cross_entropy": "masked_cross_entropy",
    "binary_cross_entropy_with_logits": "masked_binary_cross_entropy_with_logits",
    "l1_loss": "masked_l1_loss",
    "mse_loss": "masked_mse_loss",
    "smooth_l1_loss": "masked_smooth_l1_loss",
    "sigmoid_focal_loss": "masked_sigmoid_focal_loss",
    "generalized_box_iou_loss": "masked_generalized_box_iou_loss",
    "distance_box_iou_loss": "masked_distance_box_iou_loss",
    "complete_box_iou_loss": "masked_complete_box_iou_loss",
}
_REDUCTIONS = {"sum": "masked_sum", "mean": "masked_mean"}
_AS_IT_WAS = "or as it was, inside fixshape.static_indexing()"


def suggest(code: str, site: Location | None, caller: Location | None, shapes: Sequence[str] = ()) -> str:
    """The rewrite that fits a finding, or ``""`` where its code is not in the catalogue.

    Args:
        code: of the finding.
        site: innermost line outside torch.
        caller: innermost line of the user's own.
        shapes: texts of the tensors that went in, which say how many dimensions a mask lacks.
    """
    entry = CATALOGUE.get(code)
    if entry is None:
        return ""
    writer = _WRITERS.get(code)
    # A user cannot edit torchvision's lines: those are answered as a whole, but for a function of it that the user calls.
    in_library = site is not None and "/torchvision/" in site.file.replace("\\", "/")
    for place in (caller,) if in_library or site == caller else (site, caller):
        line = read_line(place) if writer else None
        text = writer(line, shapes) if line and writer else ""
        if text:
            return text if len(text) <= _LONGEST else entry.rewrite
    model = _model(read_line(caller)) if in_library and code[:3] in ("FS1", "FS2") else ""
    return (
        f"{model} = fixshape.to_static({model})  # torchvision's own code; in yours: {entry.rewrite}" if model else entry.rewrite
    )


def _model(line: Line | None) -> str:
    """What the user's line calls that led into torchvision: a model, or ``""`` where it is a function of ``torchvision.ops``."""
    functions = sys.modules.get("torchvision.ops")
    for call in _calls(line):
        if hasattr(functions, called(call)):
            return ""
        if isinstance(call.func, ast.Name) and not hasattr(builtins, call.func.id):
            return call.func.id
        if isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Name) and call.func.value.id == "self":
            return ast.unparse(call.func)
    return "model"


def _calls(line: Line | None, *names: str) -> Iterator[ast.Call]:
    for node in line.nodes if line else ():
        if isinstance(node, ast.Call) and (not names or called(node) in names):
            yield node


def _operand(call: ast.Call) -> tuple[str, list[str]]:
    """What a call works on and its other arguments, for ``torch.f(x, a)`` and for ``x.f(a)``."""
    rest = [ast.unparse(argument) for argument in call.args] + [ast.unparse(keyword) for keyword in call.keywords]
    named = [keyword for keyword in call.keywords if keyword.arg == "input"]
    if isinstance(call.func, ast.Attribute) and not _is_module(call.func.value):
        return _part(call.func.value), rest
    if named:
        return ast.unparse(named[0].value), [text for text in rest if text != ast.unparse(named[0])]
    return (rest[0], rest[1:]) if rest else ("", [])


def _is_module(node: ast.expr) -> bool:
    root = node
    while isinstance(root, ast.Attribute):
        root = root.value
    return isinstance(root, ast.Name) and root.id in (
        "torch",
        "F",
        "nn",
        "torchvision",
        "ops",
        "functional",
        "box_ops",
        "np",
        "numpy",
    )


def _part(node: ast.expr) -> str:
    """Text that can be followed by a dot or a bracket."""
    text = ast.unparse(node)
    return text if isinstance(node, (ast.Name, ast.Attribute, ast.Subscript, ast.Call)) else f"({text})"


def _target(line: Line) -> str:
    statement = line.statement
    if isinstance(statement, ast.Assign) and len(statement.targets) == 1 and isinstance(statement.targets[0], ast.Name):
        return statement.targets[0].id
    return ""


def _nonzero(line: Line, shapes: Sequence[str]) -> str:
    text = _fixed_nonzero(line)
    return text and f"{text}{';' if '  # ' in text else '  #'} {_AS_IT_WAS}"


def _fixed_nonzero(line: Line) -> str:
    for call in _calls(line, "nonzero", "argwhere", "flatnonzero", "where"):
        condition, rest = _operand(call)
        if not condition or (called(call) == "where" and rest):
            continue
        found = f"fixed_nonzero({condition}, size=...)"
        parent = line.parents.get(call)
        if isinstance(parent, ast.Subscript) and isinstance(parent.slice, ast.Tuple):  # nonzero(mask)[:, 1]
            name = _target(line) if line.parents.get(parent) is line.statement else ""
            column = ast.unparse(ast.Subscript(ast.Name("found.indices"), parent.slice, ast.Load()))
            return f"found = {found}; {name + ' = ' if name else ''}{column}  # valid: found.valid_mask"
        targets = line.statement.targets[0] if isinstance(line.statement, ast.Assign) else None
        if isinstance(targets, ast.Tuple) and line.statement is parent:
            names = ", ".join(map(ast.unparse, targets.elts))
            return f"found = {found}; {names} = found.indices.unbind(1)  # valid: found.valid_mask"
        if name := _target(line):
            pulls = called(call) == "where" or bool(rest) or parent is not line.statement
            return f"{name}, valid = {found}[:2]" + (f"; {name} = {name}.squeeze(1)" if pulls else "")
        return found
    return ""


def _read_by_mask(line: Line, shapes: Sequence[str]) -> str:
    reads = [
        node for node in line.nodes if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load) and _may_mask(node)
    ]
    # A comparison is a mask for sure; a name may be integers.
    reads.sort(key=lambda node: not isinstance(node.slice, (ast.Compare, ast.UnaryOp, ast.BinOp)))
    if reads:
        return _keep_all(line, reads[0], ast.unparse(reads[0].value), ast.unparse(reads[0].slice), f"; {_AS_IT_WAS}")
    return _write(line, shapes)  # a gradient of a write, told at the line of the write


def _may_mask(node: ast.Subscript) -> bool:
    constant = isinstance(node.slice, ast.UnaryOp) and isinstance(node.slice.operand, ast.Constant)
    return not constant and not isinstance(node.slice, (ast.Constant, ast.Slice, ast.Tuple, ast.List))


def _keep_all(line: Line, node: ast.expr, values: str, mask: str, otherwise: str = "") -> str:
    """What is to be done with all of ``values`` where the line works on those that ``mask`` chooses, or else ``otherwise``."""
    parent = line.parents.get(node)
    call = line.parents.get(parent) if isinstance(parent, ast.Attribute) else None
    if isinstance(parent, ast.Attribute) and isinstance(call, ast.Call) and parent.attr in _REDUCTIONS:
        given = [ast.unparse(part) for part in (*call.args, *call.keywords)]
        return f"{_REDUCTIONS[parent.attr]}({', '.join([values, *given])}, valid_mask={mask})"
    if isinstance(parent, ast.Call) and called(parent) in (*_REDUCTIONS, *_LOSSES):
        name = _REDUCTIONS.get(called(parent)) or _LOSSES[called(parent)]
        arguments = [_without_mask(argument, mask) for argument in parent.args]
        arguments += [(f"{word.arg}=" if word.arg else "**") + _without_mask(word.value, mask) for word in parent.keywords]
        return f"{name}({', '.join(arguments)}, valid_mask={mask})"
    return f"keep all of {values} and give valid_mask={mask} to what follows: masked_sum({values}, valid_mask={mask}){otherwise}"


def _without_mask(node: ast.expr, mask: str) -> str:
    if isinstance(node, ast.Subscript) and ast.unparse(node.slice) == mask:
        return ast.unparse(node.value)
    return ast.unparse(node)


def _write_by_mask(line: Line, shapes: Sequence[str]) -> str:
    # Or the gradient of a read, told at the line of the read.
    return _write(line, shapes) if _is_write(line.statement) else _read_by_mask(line, shapes)


def _is_write(statement: ast.stmt) -> bool:
    target = statement.targets[0] if isinstance(statement, ast.Assign) else getattr(statement, "target", None)
    return isinstance(target, ast.Subscript) and isinstance(statement, (ast.Assign, ast.AugAssign))


def _write(line: Line, shapes: Sequence[str]) -> str:
    statement = line.statement
    if not isinstance(statement, (ast.Assign, ast.AugAssign)):
        return ""
    target = statement.targets[0] if isinstance(statement, ast.Assign) else statement.target
    if not isinstance(target, ast.Subscript) or not _may_mask(target):
        return ""
    whole, mask = ast.unparse(target.value), ast.unparse(target.slice)
    value = _without_mask(statement.value, mask)
    if isinstance(statement, ast.AugAssign):
        value = ast.unparse(ast.BinOp(target.value, statement.op, ast.parse(value, mode="eval").body))
    note = "" if value != ast.unparse(statement.value) or isinstance(statement, ast.AugAssign) else "  # a value for every row"
    missing = _missing_dimensions(shapes)
    spread = f"{_part(target.slice)}[..., {', '.join(['None'] * missing)}]" if missing else mask
    return f"{whole} = torch.where({spread}, {value}, {whole}){note}"


def _missing_dimensions(shapes: Sequence[str]) -> int:
    """How many dimensions the mask has less than what it writes to, from ``("f32[8, 4]", "[bool[8]]", ...)``."""
    if len(shapes) < 2 or "," in shapes[1].partition("],")[2]:
        return 0
    values, mask = (text.rpartition("[")[2].strip("]").split(",") for text in shapes[:2])
    return max(0, len(values) - len(mask))


def _masked_select(line: Line, shapes: Sequence[str]) -> str:
    for call in _calls(line, "masked_select"):
        values, rest = _operand(call)
        if rest:
            return _keep_all(line, call, values, rest[0].removeprefix("mask="), f"; {_AS_IT_WAS}")
    return ""


def _unique(line: Line, shapes: Sequence[str]) -> str:
    for call in _calls(line, "unique"):
        values, rest = _operand(call)
        if values and not any(text.startswith("dim=") for text in rest):
            return f"occurs = torch.zeros(num_classes, dtype=torch.int64, device={values}.device).scatter(0, {values}, 1)"
    for call in _calls(line, "unique_consecutive"):
        values, _ = _operand(call)
        return f"first = torch.cat(({values}.new_ones(1, dtype=torch.bool), {values}[1:] != {values}[:-1]))  # a valid_mask"
    return ""


def _repeat(line: Line, shapes: Sequence[str]) -> str:
    for call in _calls(line, "repeat_interleave"):
        values, rest = _operand(call)
        counts = rest[0].removeprefix("repeats=") if rest else values
        rows = f"torch.searchsorted({counts}.cumsum(0), slots, right=True).clamp(max=len({counts}) - 1)"
        result = f"{values}[{rows}]" if rest else rows
        return f"slots = torch.arange(size, device={counts}.device); {result}  # valid where slots < {counts}.sum()"
    return ""


def _bincount(line: Line, shapes: Sequence[str]) -> str:
    for call in _calls(line, "bincount"):
        values, rest = _operand(call)
        weights = [text.removeprefix("weights=") for text in rest if not text.startswith("minlength=")]
        added = weights[0] if weights else f"torch.ones_like({values})"
        return f"torch.zeros(num_classes, dtype={added}.dtype, device={values}.device).scatter_add(0, {values}, {added})"
    return ""


def _one_hot(line: Line, shapes: Sequence[str]) -> str:
    for call in _calls(line, "one_hot"):
        return f"{ast.unparse(call.func)}({_operand(call)[0]}, num_classes)"
    return ""


def _randperm(line: Line, shapes: Sequence[str]) -> str:
    for call in _calls(line, "randperm"):
        length = call.args[0] if call.args else None
        of = ""
        if isinstance(length, ast.Call) and called(length) in ("numel", "len", "size"):
            of = f" of {_operand(length)[0]}"
        elif isinstance(length, ast.Subscript) and isinstance(length.value, ast.Attribute) and length.value.attr == "shape":
            of = f" of {ast.unparse(length.value.value)}"
        keys = "keys, rows = torch.rand(len(mask)).masked_fill(~mask, -1).topk(size), valid where keys >= 0"
        return f"in place of a random order{of}: {keys}; or balanced_sample(labels, size, positive_fraction)"
    return ""


def _nms(line: Line, shapes: Sequence[str]) -> str:
    for call in _calls(line, "nms", "batched_nms"):
        given = [ast.unparse(part) for part in (*call.args, *call.keywords)]
        if given:
            name = (_target(line) if line.parents.get(call) is line.statement else "") or "keep"
            boxes = given[0].removeprefix("boxes=")
            return f"{name}, valid = fixshape.ops.{called(call)}({', '.join(given)}, size=len({boxes}))"
    return ""


def _item(line: Line, shapes: Sequence[str]) -> str:
    statement = line.statement
    if isinstance(statement, (ast.If, ast.While, ast.Assert)) and statement.test in line.nodes:
        if isinstance(statement, ast.Assert) or any(isinstance(part, ast.Raise) for part in statement.body):
            return f"check it in the collate function, on the host: {ast.unparse(statement.test)}"
        condition = _condition(statement.test)
        return f"compute both and choose: torch.where({condition}, a, b)" if condition else ""
    for call in _calls(line, "max"):
        bounds = [part for part in call.args if isinstance(part, ast.Constant)]
        values = [part for part in call.args if not isinstance(part, ast.Constant)]
        if isinstance(call.func, ast.Name) and len(bounds) == len(values) == 1:
            return f"{_read(values[0])}.clamp(min={ast.unparse(bounds[0])})"
    for call in _calls(line, "item", "int", "float", "bool", "tolist"):
        kept = _read(call)
        if kept != ast.unparse(call):
            name = _target(line)
            return f"{name} = {kept}" if name and line.parents.get(call) is statement else f"{kept}.detach()  # stays a tensor"
    return ""


def _condition(test: ast.expr) -> str:
    """A test as a tensor; ``""`` where it joins tensors with what Python knows."""
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        inner = _condition(test.operand)
        return inner and f"torch.logical_not({inner})"
    return "" if isinstance(test, ast.BoolOp) else ast.unparse(test)


def _read(node: ast.expr) -> str:
    """A value as it was before the host read it: ``mask.sum()`` of ``int(mask.sum().item())``."""
    while isinstance(node, ast.Call):
        if isinstance(node.func, ast.Name) and node.func.id in ("int", "float", "bool") and len(node.args) == 1:
            node = node.args[0]
        elif isinstance(node.func, ast.Attribute) and node.func.attr in ("item", "tolist") and not node.args:
            node = node.func.value
        else:
            break
    return _part(node)


def _to_host(line: Line, shapes: Sequence[str]) -> str:
    calls = sorted(
        _calls(line, "cpu", "to", "numpy", "tolist", "asarray", "array"), key=lambda call: called(call) not in ("cpu", "to")
    )
    for call in calls:
        if isinstance(call.func, ast.Attribute) and (called(call) != "to" or "cpu" in ast.unparse(call)):
            value = call.args[0] if _is_module(call.func.value) and call.args else call.func.value
            while isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute) and called(value) in ("cpu", "detach"):
                value = value.func.value
            copy = f'{_part(value)}.detach().to("cpu", non_blocking=True)'
            return f"keep {ast.unparse(value)} on the device; or {copy}, and read it a step later"
    return ""


def _slice(line: Line, shapes: Sequence[str]) -> str:
    for node in line.nodes:
        if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Slice) and node.slice.upper and not node.slice.lower:
            values, bound = _part(node.value), _read(node.slice.upper)
            mask = f"torch.arange(len({values}), device={values}.device) < {bound}"
            return _keep_all(line, node, ast.unparse(node.value), mask)
    for call in _calls(line, "arange"):
        if len(call.args) == 1:
            return f"positions = torch.arange(size); valid = positions < {_read(call.args[0])}"
    return ""


def _equal(line: Line, shapes: Sequence[str]) -> str:
    for call in _calls(line, "equal", "allclose"):
        values, rest = _operand(call)
        if rest and called(call) == "equal":
            return f"({values} == {rest[0]}).all()"
        if rest:
            return f"torch.isclose({', '.join([values, *rest])}).all()"
    return ""


_WRITERS: dict[str, _Writer] = {
    "FS101": _nonzero,
    "FS102": _read_by_mask,
    "FS103": _write_by_mask,
    "FS104": _masked_select,
    "FS105": _unique,
    "FS106": _repeat,
    "FS107": _bincount,
    "FS108": _one_hot,
    "FS109": _randperm,
    "FS110": _nms,
    "FS201": _item,
    "FS202": _to_host,
    "FS203": _slice,
    "FS204": _equal,
}
