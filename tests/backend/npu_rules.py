"""What holds in a dry run on an NPU, as JSON: one process for all of it, since torch-npu takes seconds to start.

python -m tests.backend.npu_rules
"""

import ast
import contextlib
import io
import json
import os
import sys
import tempfile
import threading
from pathlib import Path

from fixshape import get_backend
from fixshape.errors import BackendError

found = {}


def outcome(call):
    """``["gives", value]`` or ``["raises", name of the error, text]``."""
    try:
        value = call()
    except Exception as error:
        return ["raises", type(error).__name__, str(error)]
    return ["gives", value]


def names_that_are_used() -> list[str]:
    """Every attribute of ``torch.npu`` that the backend's source mentions: ``amp.GradScaler``."""
    import fixshape.backend._npu as module

    names = set()
    for node in ast.walk(ast.parse(Path(module.__file__).read_text())):
        chain, part = [], node
        while isinstance(part, ast.Attribute):
            chain.append(part.attr)
            part = part.value
        chain.reverse()
        if isinstance(part, ast.Name) and part.id == "self" and chain[:1] == ["_npu"] and len(chain) > 1:
            names.add(".".join(chain[1:]))
        if isinstance(part, ast.Call) and getattr(part.func, "id", "") == "start" and chain[:1] == ["npu"] and len(chain) > 1:
            names.add(".".join(chain[1:]))
    return sorted(names)


@contextlib.contextmanager
def stderr_of_the_process(said):
    """What C++ code writes there."""
    with tempfile.TemporaryFile() as file:
        stderr = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            file.seek(0)
            said.append(file.read().decode())


def main() -> None:
    stdout = io.StringIO()
    with contextlib.redirect_stdout(stdout):
        backend = get_backend("npu", dry_run=True)
        again = get_backend("npu", dry_run=True)
    found["stdout"] = stdout.getvalue()

    import torch
    import torchvision
    from torch.utils._python_dispatch import _disable_current_modes

    from fixshape.backend import conformance, unavailable_reason

    device = backend.device()
    found["again"] = again.compiles() == backend.compiles()
    found["unavailable"] = unavailable_reason("npu")

    names = names_that_are_used()
    found["names"] = names
    found["missing"] = []
    for name in names:
        part = torch.npu
        for piece in name.split("."):
            part = getattr(part, piece, None)
        # A setting has no value until somebody sets one.
        if part is None and name != "config.allow_internal_format":
            found["missing"].append(name)
    found["hccl"] = backend.collective, torch.distributed.is_backend_available("hccl")

    found["conformance"] = {check.__name__: outcome(lambda check=check: check(backend))[:3] for check in conformance.CHECKS}

    # Values.
    known = torch.arange(6.0).reshape(2, 3).to(device)
    unknown = known + 1
    ones = torch.ones(2, 3)

    def written():
        held = torch.arange(3.0).to(device)
        held[0] = 7
        return held.tolist()

    def statistics():
        layer = torch.nn.BatchNorm2d(3).to(device)
        layer(torch.ones(1, 3, 2, 2, device=device))
        return layer.running_mean.tolist()

    def elsewhere():
        said = []
        thread = threading.Thread(target=lambda: said.append(outcome(lambda: unknown.tolist())[:2]))
        thread.start()
        thread.join()
        return said

    found["values"] = {
        "known": outcome(known.tolist),
        "a row": outcome(known[1].tolist),
        "refilled": outcome(lambda: torch.ones(2, 3, device=device).copy_(ones).tolist()),
        "item": outcome(torch.tensor(3.5).to(device).item),
        "column": outcome(known[:, 1].tolist),
        "computed": outcome(unknown.tolist),
        "to the host": outcome(lambda: torch.zeros(2, 3).copy_(unknown)),
        "written to": outcome(written),
        "statistics": outcome(statistics),
        "bool": outcome(lambda: bool(unknown.sum() > 0)),
        "equal": outcome(lambda: torch.equal(known, unknown)),
        "nonzero": outcome(unknown.nonzero),
        "mask": outcome(lambda: unknown[unknown > 2]),
        "masked_select": outcome(lambda: unknown.masked_select(unknown > 2)),
        "unique": outcome(unknown.unique),
        "repeat_interleave": outcome(lambda: unknown.repeat_interleave(torch.tensor([1, 2], device=device), 0)),
        "nms": outcome(lambda: torchvision.ops.nms(unknown.new_zeros(5, 4), unknown.new_zeros(5), 0.5)),
        "backward": outcome(lambda: Reads.apply(unknown.clone().requires_grad_()).sum().backward()),
        "elsewhere": outcome(elsewhere),
        "printed": outcome(lambda: repr(unknown))[:2],
    }

    # Keys: what compiles anew.
    def compiles(call):
        before = backend.compiles()
        call()
        return backend.compiles() - before

    softmax, topk = torch.nn.functional.softmax, torch.topk
    image, kernel = torch.zeros(1, 3, 8, 8, device=device), torch.zeros(3, 3, 3, 3, device=device)
    found["keys"] = {}
    for operators in ("built", "online"):
        backend.set_compile_mode(online=operators == "online")
        found["keys"][operators] = {
            "again": [compiles(lambda: softmax(unknown, 0)) for _ in range(2)],
            "an int": [compiles(lambda d=d: softmax(unknown, d)) for d in (1, 1)],
            "a size": [compiles(lambda k=k: topk(unknown, k)) for k in (1, 2, 1)],
            "a shape": [compiles(lambda n=n: torch.relu(unknown[:, :n].clone())) > 0 for n in (1, 2, 1)],
            "a dtype": [
                compiles(lambda t=t: torch.abs(torch.zeros(7, dtype=t, device=device))) > 0 for t in (torch.half, torch.int)
            ],
            "stride": [compiles(lambda s=s: torch.conv2d(image, kernel, stride=s, padding=1)) > 0 for s in (1, 2, 1)],
            "dilation": [compiles(lambda s=s: torch.conv2d(image, kernel, padding=s, dilation=s)) > 0 for s in (2, 1, 2)],
            "groups": [
                compiles(lambda g=g: torch.conv2d(image, kernel[:, : 3 // g].contiguous(), groups=g)) > 0 for g in (1, 3, 3)
            ],
            "a bool": [compiles(lambda b=b: torch.sort(unknown, descending=b)) > 0 for b in (True, False, True)],
            "a float": [compiles(lambda x=x: torch.nn.functional.leaky_relu(unknown, x)) for x in (0.1, 0.2, 0.3)],
            "a factor": [compiles(lambda x=x: unknown.mul(x)) for x in (1.5, 2.5, 3.5)],
            "a seed": [compiles(lambda: torch.rand(9, device=device)) > 0 for _ in range(3)],
            "dropout": [compiles(lambda: torch.nn.functional.dropout(unknown, 0.5)) > 0 for _ in range(3)],
            "permutation": [compiles(lambda: torch.randperm(9, device=device)) > 0 for _ in range(3)],
            "64 bits": [list((torch.arange(n).to(device) != 3).shape) for n in (4, 5)],
        }
    found["slow_forms"] = backend.slow_forms()

    # Fall-backs, against what torch-npu itself says once the mode is out of the way.
    square, region = torch.ones(3, 3).to(device), torch.zeros(2, 5).to(device)
    calls = {
        "aten::linalg_eig": lambda: torch.ops.aten.linalg_eig(square),
        "aten::linalg_lu_factor_ex": lambda: torch.ops.aten.linalg_lu_factor_ex(square),
        "aten::digamma": lambda: torch.ops.aten.digamma(square),
        "aten::cummax": lambda: torch.ops.aten.cummax(square, 0),
        "aten::i0": lambda: torch.ops.aten.i0(square),
        "aten::logcumsumexp": lambda: torch.ops.aten.logcumsumexp(square, 0),
        "torchvision::roi_align": lambda: torch.ops.torchvision.roi_align(image, region, 1.0, 2, 2, 2, False),
    }
    backend.set_compile_mode(online=False)
    found["shapes"] = {
        name: str(outcome(lambda call=call: [part.shape for part in leaves(call())])) for name, call in calls.items()
    }
    found["fallbacks"] = backend.fallbacks()
    said = []
    with stderr_of_the_process(said), _disable_current_modes(), backend._standin.reads_allowed():
        for call in calls.values():
            outcome(call)
    found["said"] = [name for name in calls if f"The operator '{name}" in said[0]]

    before = backend.waits().get("aten::hardswish_backward", 0)
    torch.nn.functional.hardswish(unknown.clone().requires_grad_()).sum().backward()
    found["waits"] = backend.waits().get("aten::hardswish_backward", 0) - before

    # The settings that a real device has.
    with tempfile.TemporaryDirectory() as folder:
        found["settings"] = [
            outcome(lambda: backend.set_compile_cache(folder)),
            outcome(lambda: backend.set_compile_cache(folder, "sometimes")),
            outcome(lambda: backend.allow_private_formats(False)),
            outcome(backend.advice),
        ]
        backend.set_compile_mode(online=True)
        found["settings"].append(outcome(backend.advice))
    found["memory"] = backend.peak_memory()
    found["auto"] = get_backend("auto").name
    json.dump(found, sys.stdout)


def leaves(value):
    return value if isinstance(value, tuple) else (value,)


def _reading_function():
    import torch

    class ReadsBackward(torch.autograd.Function):
        @staticmethod
        def forward(context, value):
            return value * 2

        @staticmethod
        def backward(context, gradient):
            gradient.sum().item()
            return gradient

    return ReadsBackward


class Reads:
    """A function whose gradient reads a value."""

    @staticmethod
    def apply(value):
        return _reading_function().apply(value)


if __name__ == "__main__":
    try:
        main()
    except BackendError as error:
        sys.exit(f"BackendError: {error}")
