"""The architecture, held: who may import whom, how long a module may be, who may print, and what an import may do."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import fixshape

ROOT = Path(fixshape.__file__).parent
LAYERS = {
    "errors": 0.0, "_files": 0.1, "_check": 0.1,
    "plan": 1, "backend": 1,
    "ops": 2, "collate": 2, "audit": 2,
    "detection": 3, "train": 3, "export": 3,
    "cli": 4,
    "__main__": 5,
}  # fmt: skip
VENDORS = {"torch_xla": "backend/_xla.py", "torch_npu": "backend/_npu.py"}
LONGEST = 600
MODULES = sorted(ROOT.rglob("*.py"))


def _package(path: Path) -> str:
    first = path.relative_to(ROOT).parts[0]
    return first.removesuffix(".py")


def _imports(tree: ast.AST) -> list[tuple[str, int]]:
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found.append((node.module, node.lineno))
            if node.module == "fixshape":
                found += [(f"fixshape.{alias.name}", node.lineno) for alias in node.names if alias.name in LAYERS]
    return found


def forbidden(package: str, tree: ast.AST) -> list[str]:
    """Imports of fixshape packages that are not the module's own and not in a lower layer."""
    wrong = []
    for name, line in _imports(tree):
        parts = name.split(".")
        if parts[0] == "fixshape" and len(parts) > 1 and parts[1] != package and LAYERS[parts[1]] >= LAYERS[package]:
            wrong.append(f"line {line}: {package} (L{LAYERS[package]}) imports {parts[1]} (L{LAYERS[parts[1]]})")
    return wrong


def test_every_package_has_a_layer():
    assert {_package(path) for path in MODULES} - {"__init__"} == set(LAYERS)


@pytest.mark.parametrize(
    "path", [path for path in MODULES if path != ROOT / "__init__.py"], ids=lambda path: str(path.relative_to(ROOT))
)
def test_imports_go_down_and_never_sideways(path):
    assert forbidden(_package(path), ast.parse(path.read_text())) == []


def test_the_check_finds_a_sibling_and_an_upward_import():
    sibling, upward = ast.parse("from fixshape.ops import nms"), ast.parse("def f():\n    import fixshape.train")
    assert forbidden("audit", sibling) == ["line 1: audit (L2) imports ops (L2)"]
    assert forbidden("plan", upward) == ["line 2: plan (L1) imports train (L3)"]
    assert forbidden("detection", sibling) == []


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_is_short_quiet_and_free_of_vendors(path):
    source = path.read_text()
    tree = ast.parse(source)
    assert len(source.splitlines()) <= LONGEST
    assert "utils" not in path.stem
    calls = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    if _package(path) != "cli":
        assert not calls & {"print", "exit", "quit"}
    top = {
        name.split(".")[0] for node in tree.body for name, _ in _imports(node) if isinstance(node, ast.Import | ast.ImportFrom)
    }
    assert not top & set(VENDORS), "vendor packages are imported inside functions"
    anywhere = {name.split(".")[0] for name, _ in _imports(tree)}
    for vendor in anywhere & set(VENDORS):
        assert str(path.relative_to(ROOT)) == VENDORS[vendor]


@pytest.mark.parametrize(
    "path", [path for path in MODULES if path.name == "__init__.py"], ids=lambda path: str(path.relative_to(ROOT))
)
def test_an_init_only_hands_names_on(path):
    allowed = (ast.Expr, ast.ImportFrom, ast.Assign)
    if path.parent != ROOT:
        assert all(isinstance(node, allowed) for node in ast.parse(path.read_text()).body)


def _run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_plan_export_and_the_command_lines_arguments_need_no_torch():
    """Nor does one of them need the packages of an extra."""
    code = """
import sys, fixshape, fixshape.plan, fixshape.export, fixshape.cli.__main__
fixshape.cli.__main__.make_parser()
print(sorted(set(sys.modules) & {'torch', 'onnx', 'onnxruntime', 'onnxscript', 'pycocotools', 'matplotlib'}))
"""
    assert _run(code) == "[]\n"


def test_import_has_no_side_effects():
    """No vendor package, no environment variable, no device probe, no thread, no file."""
    code = """
import os, sys, threading
import torch, torchvision, tqdm
before, threads = dict(os.environ), threading.active_count()
probed = []
torch.cuda.is_available = lambda: probed.append('cuda')
import fixshape
for name in fixshape.__all__:
    getattr(fixshape, name)
vendors = set(sys.modules) & {'torch_xla', 'torch_npu', 'pycocotools'}
print(dict(os.environ) == before, threading.active_count() == threads, probed, sorted(vendors))
"""
    assert _run(code) == "True True [] []\n"


def test_the_side_effect_check_can_fail():
    code = "import os; before = dict(os.environ); os.environ['X_FIXSHAPE'] = '1'; print(dict(os.environ) == before)"
    assert _run(code) == "False\n"
