"""Every op is traced to exactly the right line."""

from __future__ import annotations

import copy
import inspect
import sys
import textwrap
from types import FrameType
from typing import Any

import torch
import torchvision
from torch.utils._python_dispatch import TorchDispatchMode

from fixshape.audit import Location, OpRecorder
from fixshape.audit._frames import locate


def _line(offset: int = 0) -> int:
    frame = inspect.currentframe()
    assert frame is not None and frame.f_back is not None
    return frame.f_back.f_lineno + offset


def _function_of(module: str, source: str) -> dict[str, Any]:
    """Names that ``source`` defines as if it stood in ``<module>.py``, without such a file."""
    names: dict[str, Any] = {"__name__": module, "sys": sys}
    exec(compile(textwrap.dedent(source), f"/somewhere/{module}.py", "exec"), names)
    return names


def _innermost() -> FrameType:
    return sys._getframe(1)


def test_site_and_caller_are_this_line():
    with OpRecorder() as recorder:
        torch.ones(3)
        line = _line(-1)
    (event,) = recorder.report().events
    here = Location(__file__, line, "test_site_and_caller_are_this_line")
    assert event.site == here
    assert event.caller == here


def test_torch_code_in_between_is_passed_over():
    linear = torch.nn.Sequential(torch.nn.Linear(3, 2))
    rows = torch.ones(4, 3)
    with OpRecorder() as recorder:
        linear(rows)
        line = _line(-1)
    (event,) = recorder.report().events
    assert event.op == "aten.addmm.default"
    assert event.site is not None and (event.site.file, event.site.line) == (__file__, line)


def test_a_library_line_is_the_site_and_not_the_caller():
    boxes, scores = torch.rand(3, 4), torch.rand(3)
    with OpRecorder() as recorder:
        torchvision.ops.nms(boxes, scores, 0.5)
        line = _line(-1)
    event = recorder.report().events[-1]
    source, first = inspect.getsourcelines(torchvision.ops.nms)
    library_line = first + next(index for index, text in enumerate(source) if "torch.ops.torchvision.nms" in text)
    assert event.site == Location(torchvision.ops.boxes.__file__, library_line, "nms")
    assert event.caller is not None and (event.caller.file, event.caller.line) == (__file__, line)


def test_the_backward_pass_belongs_to_the_line_that_starts_it():
    weight = torch.ones(3, requires_grad=True)
    loss = (weight * 2).sum()
    with OpRecorder() as recorder:
        loss.backward()
        line = _line(-1)
    callers = {event.caller for event in recorder.report().events}
    assert {(caller.file, caller.line) for caller in callers if caller} == {(__file__, line)}
    assert None not in callers


def test_the_standard_library_is_passed_over():
    rows = torch.ones(3)
    with OpRecorder() as recorder:
        copy.deepcopy([rows])
        line = _line(-1)
    event = recorder.report().events[0]
    assert event.site is not None and (event.site.file, event.site.line) == (__file__, line)


def test_own_code_of_this_project_is_a_site_and_not_a_caller():
    module = _function_of("fixshape.ops._some", "def some():\n    return sys._getframe()\n")
    site, caller = locate(module["some"]())
    assert site == Location("/somewhere/fixshape.ops._some.py", 2, "some")
    assert caller is None or caller.file != site.file


def test_a_user_module_with_a_name_of_the_standard_library_is_the_users():
    module = _function_of("queue", "def put():\n    return sys._getframe()\n")
    site, caller = locate(module["put"]())
    assert site == caller == Location("/somewhere/queue.py", 2, "put")


def test_generated_code_is_passed_over():
    names: dict[str, Any] = {"innermost": _innermost}
    exec(compile("\n\ndef generated():\n    return innermost()\n", "<eval_with_key>.7", "exec"), names)
    frame = names["generated"]()
    assert frame.f_code.co_filename == "<eval_with_key>.7"
    site, _ = locate(frame)
    assert site is None or "<" not in site.file


class _Through(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


def test_handlers_of_other_modes_are_passed_over():
    with OpRecorder() as outer, _Through(), OpRecorder() as inner:
        torch.ones(3)
        line = _line(-1)
    for recorder in (outer, inner):
        (event,) = recorder.report().events
        assert event.site is not None and (event.site.file, event.site.line) == (__file__, line)


def test_without_python_there_is_no_line():
    assert locate(None) == (None, None)
