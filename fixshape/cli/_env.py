"""``fixshape env``: what is installed, what can be used, and why not the rest."""

from __future__ import annotations

import argparse
import json
import os
import platform
from importlib import metadata
from typing import Any

from fixshape import __version__
from fixshape.cli._exit import ExitCode

SCHEMA_VERSION = 1

_PACKAGES = ("torchvision", "numpy", "tqdm", "torch_xla", "torch_npu", "pycocotools")
_EXTRAS = {"coco": "pycocotools", "test": "pytest", "xla": "torch_xla"}

_EPILOG = """example:
  $ fixshape env
  fixshape 0.1.0, Python 3.11.7, Linux x86_64, 2 CPUs
  ...
  backends
    npu   no: torch_npu is not installed: python -m pip install --no-deps 'torch-npu==2.9.*'
    cuda  no: torch.cuda.is_available() is False: no NVIDIA GPU, or no driver, is visible to this process
    xla   no: torch_xla is not installed: python -m pip install 'fixshape[xla]'
    cpu   yes: cpu:0, default
"""


def add_parser(commands: Any) -> None:
    """Adds the subcommand."""
    parser = commands.add_parser(
        "env",
        help="versions, devices, and which backends can be used",
        description="Versions, devices, which backends and extras can be used and why not. Paste it into a bug report.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> ExitCode:
    """Runs the subcommand."""
    found = _environment()
    print(json.dumps(found, indent=2) if arguments.json else _as_text(found))
    return ExitCode.CLEAN


def _environment() -> dict[str, Any]:
    import torch

    from fixshape.backend import BACKENDS, get_backend, unavailable_reason

    default = get_backend("auto").name
    backends: dict[str, Any] = {}
    for name in BACKENDS:
        reason = unavailable_reason(name)
        device = None if reason else str(get_backend(name).device())
        backends[name] = {"usable": reason is None, "why_not": reason, "device": device, "default": name == default}
    extras = {}
    for extra, package in sorted(_EXTRAS.items()):
        reason = None if _version(package) else f"{package} is not installed: python -m pip install 'fixshape[{extra}]'"
        extras[extra] = {"usable": reason is None, "why_not": reason}
    return {
        "schema_version": SCHEMA_VERSION,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "fixshape": __version__,
        # torch's own word, not the wheel's: it names the build too (+cpu, +cu130).
        "packages": {"torch": torch.__version__, **{package: _version(package) for package in _PACKAGES}},
        "backends": backends,
        "extras": extras,
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _as_text(found: dict[str, Any]) -> str:
    lines = [
        f"fixshape {found['fixshape']}, Python {found['python']}, {found['platform']}, {found['cpus']} CPUs",
        "packages",
        *(f"  {name:<12} {version or 'not installed'}" for name, version in found["packages"].items()),
        "backends",
    ]
    for name, backend in found["backends"].items():
        default = ", default" if backend["default"] else ""
        state = f"yes: {backend['device']}{default}" if backend["usable"] else f"no: {backend['why_not']}"
        lines.append(f"  {name:<5} {state}")
    lines.append("extras")
    lines += [f"  {name:<5} {'yes' if extra['usable'] else 'no: ' + extra['why_not']}" for name, extra in found["extras"].items()]
    return "\n".join(lines)
