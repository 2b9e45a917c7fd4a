"""The drawing: a file of the right kind, or a clear error."""

import subprocess
import sys

import pytest

from fixshape.errors import ExtraError, PlanError
from fixshape.plan import plan_buckets, plot

_SIZES = [(480, 640, 3), (640, 480, 1), (320, 320, 2)]


@pytest.mark.parametrize(("name", "start"), [("plan.png", b"\x89PNG"), ("plan.SVG", b"<?xml")])
def test_draws_every_bucket(tmp_path, name, start):
    plot(plan_buckets(_SIZES, 2, fallback=True), _SIZES, tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(start)
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_it_takes_no_display_and_changes_no_state_of_the_process(tmp_path):
    program = f"""
import sys
from fixshape.plan import plan_buckets, plot
plot(plan_buckets({_SIZES}, 2), {_SIZES}, {str(tmp_path / "plan.png")!r})
sys.exit("matplotlib.pyplot" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=120).returncode == 0


def test_without_matplotlib_the_command_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ExtraError, match=r"plot: matplotlib is not installed: python -m pip install 'fixshape\[plot\]'"):
        plot(plan_buckets(_SIZES, 2), _SIZES, tmp_path / "plan.png")
    assert list(tmp_path.iterdir()) == []


def test_another_ending_is_refused(tmp_path):
    with pytest.raises(PlanError, match=r"plan.pdf ends in '.pdf', expected .png or .svg"):
        plot(plan_buckets(_SIZES, 2), _SIZES, tmp_path / "plan.pdf")
