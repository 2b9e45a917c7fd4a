"""Every example runs as a user runs it."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))
SHOWN = {
    "train_ssdlite.py": (["6"], "nothing compiled after step 2"),
    "mask_rcnn.py": (["4"], "masks at the size of the original images"),
    "masked_loss.py": ([], "the same loss and the same gradients"),
}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_runs_and_shows_what_it_promises(path):
    arguments, promised = SHOWN[path.name]
    done = subprocess.run([sys.executable, str(path), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert promised in done.stdout
