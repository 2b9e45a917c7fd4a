"""Every example runs as a user runs it, and shows what it promises: nothing compiles after the warm-up, and what is equal."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "examples"
SHOWN = {
    "accelerate_recipe.py": ([], "compiles per step"),
    "audio.py": ([], "the same answers as without padding"),
    "custom_loss.py": ([], "the same losses and the same gradients"),
    "lightning_recipe.py": ([], "compiles per step"),
    "mask_rcnn.py": (["4"], "masks at the size of the original images"),
    "masked_loss.py": ([], "the same loss and the same gradients"),
    "migrate_torchvision.py": ([], "the same first loss"),
    "own_loop.py": ([], "held-out loss"),
    "own_loss.py": ([], "the same losses and the same gradients"),
    "torchrun_recipe.py": (["--steps", "2", "--checkpoint", "{folder}/kept"], "1 ranks, 2 steps, resumed at step 0"),
    "train_ssdlite.py": (["6"], "nothing compiled after step 2"),
    "trainer_recipe.py": ([], "compiles per step"),
    "upsample_onnx.py": ([], "one file, equal to torch at 4 scales"),
    "vector_quantisation.py": ([], "the same losses and the same codebook"),
}
TWO_SHAPES = ("accelerate_recipe.py", "lightning_recipe.py", "trainer_recipe.py")
REWRITES = ("custom_loss.py", "own_loss.py", "vector_quantisation.py")
LEARNS = (*TWO_SHAPES, "audio.py", "own_loop.py", "vector_quantisation.py")

# Runs a recipe with an optimiser that makes a tensor of another shape at each step.
DRIFTING = """
import itertools, runpy, sys
from torch.optim.optimizer import register_optimizer_step_pre_hook
sizes, kept = itertools.count(100), []
def hook(optimizer, *_):
    kept.append(optimizer.param_groups[0]["params"][0].new_ones(next(sizes)) + 1)
register_optimizer_step_pre_hook(hook)
runpy.run_path(sys.argv.pop(1), run_name="__main__")
"""
# Runs the static quantiser as if there were no padding.
UNMASKED = """
import torch, vector_quantisation as example
static = example.as_it_shall_be
def as_it_shall_be(layer, inputs, codes, valid, order):
    static(layer, inputs, codes, torch.ones_like(valid), order)
example.as_it_shall_be = as_it_shall_be
example.main()
"""


def _run(folder, *arguments):
    # transformers imports torch_npu where that is installed, which fails without the vendor's libraries: an empty one hides it.
    (folder / "torch_npu.py").touch()
    paths = (str(folder), os.environ.get("PYTHONPATH", ""))
    plain = {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=FOLDER,
        env={"PJRT_DEVICE": "CPU", **os.environ, **plain},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def _compiles(shown):
    """Of each line that lists them the compiles of the steps."""
    return [json.loads(listed) for listed in re.findall(r"compiles per step.*: (\[.*\])", shown)]


@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.glob("*.py")))
def test_an_example_runs_and_shows_what_it_promises(name, tmp_path):
    arguments, promised = SHOWN[name]
    done = _run(tmp_path, name, *(argument.format(folder=tmp_path) for argument in arguments))
    assert done.returncode == 0, done.stderr
    assert promised in done.stdout
    counts = _compiles(done.stdout)
    if name in TWO_SHAPES:
        assert len(counts) == 2
        for of_shape in counts:
            assert len(of_shape) > 2 and of_shape[0] > 0 and not any(of_shape[2:]), done.stdout
    if name in REWRITES:
        before, after = counts
        assert all(before[2:]) and after[0] > 0 and not any(after[2:]), done.stdout
    for first, later in re.findall(r"(\d+) in the warm-up, (\d+) ", done.stdout):
        assert int(first) > 0 and int(later) == 0
    if name in LEARNS:
        ((first, last),) = re.findall(r"^loss ([\d.]+) -> ([\d.]+)", done.stdout, re.MULTILINE)
        assert float(last) < float(first)
    if name == "migrate_torchvision.py":
        (changed,) = re.findall(r"lines added and removed: (\d+)", done.stdout)
        assert 0 < int(changed) < 10


@pytest.mark.slow
@pytest.mark.parametrize("name", TWO_SHAPES)
def test_the_guard_of_a_recipe_sees_its_optimiser(name, tmp_path):
    done = _run(tmp_path, "-c", DRIFTING, name)
    assert done.returncode == 1
    assert re.search(r"ShapeDriftError: CompileGuard: step \d+ \(train, .* compiled after the warm-up", done.stderr), done.stderr


@pytest.mark.slow
def test_ranks_go_on_after_one_has_died(tmp_path):
    ranks = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "1")
    done = _run(tmp_path, *ranks, "torchrun_recipe.py", "--die-at", "5", "--checkpoint", str(tmp_path / "kept"))
    assert done.returncode == 0, done.stderr[-3000:]
    assert "2 ranks, 8 steps, resumed at step 4, loss " in done.stdout


def test_the_quantiser_that_counts_padding_is_told_from_the_dynamic_one(tmp_path):
    done = _run(tmp_path, "-c", UNMASKED)
    assert done.returncode == 1
    assert "AssertionError: Tensor-likes are not close!" in done.stderr


def test_the_audit_finds_nothing_in_the_audio_example(tmp_path):
    done = _run(tmp_path, "-m", "fixshape", "audit", "audio.py", "--steps", "10")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Findings: none" in done.stdout
    assert "f32[8, 1, 2000] x 5, f32[8, 1, 4000] x 5" in done.stdout
