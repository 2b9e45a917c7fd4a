"""Training scripts on packages from PyPI, with random weights, and the report of each as ``fixshape audit`` gives it."""

import os
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

from fixshape.audit._finding import Audit
from fixshape.audit._json import from_json
from fixshape.audit._text import as_text

FOLDER = Path(__file__).parent
GOLDEN = FOLDER.parent.parent / "golden"
SCRIPTS = ("audio", "detr", "rt_detr", "segmentation", "timm_train")
STEPS = 4


@cache
def audited(script: str, folder: Path) -> Audit:
    """Runs the audit of a script in a process of its own; ``folder`` is one for what it writes."""
    # transformers imports torch_npu where that is installed, which fails without the vendor's libraries: an empty one hides it.
    (folder / "torch_npu.py").touch()
    paths = (str(folder), os.environ.get("PYTHONPATH", ""))
    plain = {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "TORCH_DEVICE_BACKEND_AUTOLOAD": "0",
    }
    output = folder / f"{script}.json"
    options = ["--steps", str(STEPS), "--format", "json", "--output", str(output)]
    command = [sys.executable, "-m", "fixshape", "audit", f"{script}.py", *options]
    done = subprocess.run(
        command, cwd=FOLDER, env={**os.environ, **plain}, capture_output=True, text=True, check=False, timeout=300
    )
    if done.returncode != 1:  # 1: findings, of which each script has some
        raise AssertionError(f"{script}.py: exit code {done.returncode}\n{done.stderr}")
    return from_json(output.read_bytes())


def golden_text(audit: Audit) -> str:
    """The report without what differs between machines and versions of torch: folders, and how many ops compile anew."""
    findings = sorted(map(_portable, audit.findings), key=lambda f: (f.code, f.site.file, f.site.line, f.op, f.phase, f.shapes))
    told = as_text(replace(audit, findings=tuple(findings), predicted={}))
    return told[told.index("Findings: ") :]


def _portable(finding):
    own = {"site": _own(finding.site), "caller": _own(finding.caller), "compiles": 0}
    if finding.op.startswith("aten.fill_."):  # torch 2.9 makes a tensor of the number first
        own |= {"op": "aten.fill_.Scalar", "shapes": finding.shapes[:1]}
    return replace(finding, **own)


def _own(place):
    """A line of the script itself, by the name of its file."""
    return replace(place, file=Path(place.file).name) if place and Path(place.file).parent == FOLDER else place


def golden(script: str) -> Path:
    return GOLDEN / f"third_party_{script}.txt"
