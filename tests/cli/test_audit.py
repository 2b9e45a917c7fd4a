"""``fixshape audit`` as a user starts it: reports, verdicts, comparisons, and clear words for what is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from fixshape.audit import Audit, AuditReport, Finding, Location, PhaseCounts, StepCounts
from fixshape.audit._json import as_json, from_json
from fixshape.cli.__main__ import main
from fixshape.cli._audit_ranks import Ranks
from fixshape.cli._audit_verdict import failures

SCRIPT = """
import sys
import torch
torch.manual_seed(0)
model = torch.nn.Linear(4, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=float(sys.argv[1]) if len(sys.argv) > 1 else 0.1)
batches = [torch.ones(4 + index % 3, 4) for index in range(40)] if "--vary" in sys.argv else [torch.ones(4, 4)] * 40
for rows in torch.utils.data.DataLoader(batches, batch_size=None):
    out = model(rows)
    loss = out[out > 0].sum() if "--dynamic" in sys.argv else out.sum()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
"""


@pytest.fixture
def script(tmp_path, monkeypatch) -> str:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    Path("train.py").write_text(SCRIPT)
    return "train.py"


def test_text_is_the_default_and_a_clean_script_ends_with_0(script, capsys):
    assert main(["audit", script, "--", "0.5"]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("No op compiles after the warm-up (") and "Findings: none" in said.out
    assert said.err == ""


def test_findings_end_with_1(script, capsys):
    assert main(["audit", script, "--steps", "3", "--", "0.5", "--dynamic"]) == 1
    said = capsys.readouterr()
    assert "FS102  aten.index.Tensor" in said.out and "train.py:10" in said.out
    assert said.err.startswith("fixshape: audit: findings: ") and "dynamic" in said.err


@pytest.mark.parametrize("form", ["text", "json", "html", "sarif"])
def test_each_form_is_the_same_on_stdout_and_in_a_file(script, capsys, form):
    options = ["audit", script, "--steps", "3", "--format", form]
    assert main([*options, "--", "0.5", "--dynamic"]) == 1
    printed = capsys.readouterr().out
    assert main([*options, "--output", "report", "--", "0.5", "--dynamic"]) == 1
    said = capsys.readouterr()
    assert said.out == "" and "fixshape: written to report\n" in said.err
    assert Path("report").read_text() == printed
    assert sorted(Path().iterdir()) == [Path("report"), Path("train.py")], "no temporary file is left"


def test_the_json_is_whole(script, capsys):
    main(["audit", script, "--steps", "3", "--format", "json", "--", "0.5", "--vary"])
    audit = from_json(capsys.readouterr().out)
    assert (audit.status, audit.exit_code, audit.command) == ("stopped", None, "train.py 0.5 --vary")
    assert set(audit.versions) >= {"python", "torch", "torchvision", "fixshape"}
    assert audit.inputs == {"batch": {"f32[4, 4]": 1, "f32[5, 4]": 1, "f32[6, 4]": 1}}
    assert len(audit.report.steps) == 3
    assert audit.predicted["npu"] == tuple(step.compiles for step in audit.report.steps)
    assert set(audit.predicted) == {"npu", "xla", "torch.compile"}


def test_a_module(script, capsys):
    Path("pack").mkdir()
    Path("pack/__main__.py").write_text(SCRIPT)
    assert main(["audit", "-m", "pack", "--steps", "3", "--format", "json", "--", "0.5"]) == 0
    assert from_json(capsys.readouterr().out).command == "-m pack 0.5"


def test_a_comparison(script, capsys):
    for name, more in (("before.json", ["--dynamic"]), ("after.json", [])):
        main(["audit", script, "--steps", "3", "--format", "json", "--output", name, "--", "0.5", *more])
    capsys.readouterr()
    assert main(["audit", "--compare", "before.json", "after.json"]) == 0
    text = capsys.readouterr().out
    assert "FS102" in text
    assert main(["audit", "--compare", "before.json", "after.json", "--output", "changes.txt"]) == 0
    assert Path("changes.txt").read_text() == text
    assert main(["audit", "--compare", "before.json", "after.json", "--format", "html"]) == 0
    assert "<svg" in capsys.readouterr().out


def test_a_baseline_allows_what_it_has(script, capsys):
    for more in ([], ["--dynamic"]):
        options = ["--steps", "3", "--format", "json", "--output", "base.json", "--", "0.5"]
        main(["audit", script, *options, *more])
    assert main(["audit", script, "--steps", "3", "--baseline", "base.json", "--", "0.5", "--dynamic"]) == 0
    main(["audit", script, "--steps", "3", "--format", "json", "--output", "base.json", "--", "0.5"])
    capsys.readouterr()
    assert main(["audit", script, "--steps", "3", "--baseline", "base.json", "--", "0.5", "--dynamic"]) == 1
    assert "fixshape: audit: new findings: " in capsys.readouterr().err


def test_fail_on_and_max_compiles(script, capsys):
    def code(*options: str) -> int:
        return main(["audit", script, "--steps", "4", *options, "--", "0.5", "--vary", "--dynamic"])

    assert code("--fail-on", "none") == 0
    assert code("--fail-on", "dynamic") == 1
    capsys.readouterr()
    assert code("--fail-on", "none", "--max-compiles", "0") == 1
    assert "op compiles, at most 0 are allowed" in capsys.readouterr().err
    assert code("--fail-on", "none", "--max-compiles", "999") == 0


# The verdict, by hand.


def _audit(*codes: str, compiles: tuple[int, ...] = (9, 3, 0), **changes) -> Audit:
    steps = tuple(StepCounts(PhaseCounts(compiles=number)) for number in compiles)
    findings = tuple(Finding(code=code, op="", phase="forward", site=Location("a.py", 3)) for code in codes)
    return replace(Audit(report=AuditReport(steps, (), {}, {}), findings=findings), **changes)


ALL = ("dynamic", "sync", "drift", "device")


@pytest.mark.parametrize(
    ("audit", "fail_on", "limit", "baseline", "reasons"),
    [
        (_audit("FS101", "FS102", "FS201"), ALL, None, None, ["findings: 2 dynamic, 1 sync"]),
        (_audit("FS101", "FS401"), ("device",), None, None, ["findings: 1 device"]),
        (_audit("FS101"), ("sync", "drift"), None, None, []),
        (_audit("FS302", unknown={"a.b": 3}), ("unknown",), None, None, ["findings: 1 unknown"]),
        (_audit(unknown={"a.b": 3}), ALL, None, None, []),
        (_audit("FS101", "FS101"), ALL, None, _audit("FS101"), ["new findings: 1 dynamic"]),
        (_audit(unknown={"a.b": 3}), ("unknown",), None, _audit(unknown={"a.b": 1}), []),
        (_audit(compiles=(9, 9, 0, 2, 5)), ALL, 4, None, ["step 5 has 5 op compiles, at most 4 are allowed"]),
        (_audit(compiles=(9, 9, 0, 2, 5)), ALL, 5, None, []),
        (_audit(compiles=(9, 9, 6)), ALL, 0, _audit(compiles=(9, 9, 5)), ["step 3 has 6 op compiles, at most 5 are allowed"]),
        (_audit(compiles=(9, 9)), ALL, 0, None, ["--max-compiles needs a step after the warm-up of 2, and there was none"]),
    ],
)
def test_the_verdict(audit, fail_on, limit, baseline, reasons):
    assert failures(audit, fail_on=fail_on, max_compiles=limit, baseline=baseline) == reasons


# Ranks.


def _rank(monkeypatch, rank: int, output: str | None = "audit.txt", world: int = 3) -> Ranks:
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("WORLD_SIZE", str(world))
    return Ranks.of_environment(output)


def _says(rank: Ranks, audit: Audit) -> None:
    rank.file.write_text(json.dumps(as_json(audit)))


def test_rank_0_waits_until_the_others_have_ended(script, monkeypatch):
    others = [_rank(monkeypatch, 1), _rank(monkeypatch, 2)]
    ours = _rank(monkeypatch, 0)
    _says(others[0], _audit("FS101", status="running"))
    pauses = []

    def meanwhile(seconds: float) -> None:
        pauses.append(seconds)
        _says(others[len(pauses) - 1], _audit("FS101", status="stopped"))

    monkeypatch.setattr("fixshape.cli._audit_ranks.time.sleep", meanwhile)
    merged = ours.merged(_audit("FS101", status="stopped"))
    assert (len(pauses), merged.status, merged.findings[0].count) == (2, "stopped", 3)


def test_rank_0_does_not_wait_for_ever(script, monkeypatch, capsys):
    ours = _rank(monkeypatch, 0)
    _says(_rank(monkeypatch, 1), _audit("FS101", status="running"))
    monkeypatch.setattr("fixshape.cli._audit_ranks._PATIENCE", 0.1)
    merged = ours.merged(_audit("FS101", status="stopped"))
    assert (merged.status, merged.findings[0].count) == ("running", 2)
    assert capsys.readouterr().err == (
        "fixshape: rank 1 had not ended after 0 s\nfixshape: rank 2 has written nothing after 0 s\n"
    )


def test_what_an_earlier_run_left_is_not_merged(script, monkeypatch):
    for rank in (0, 1):
        _says(Ranks(rank, 3, "audit.txt"), _audit())
    _rank(monkeypatch, 1)
    assert [path.name for path in sorted(Path().glob("audit*"))] == ["audit.txt.rank0.json"], "each rank removes its own"


@pytest.mark.parametrize(("rank", "world"), [(0, 1), (3, 3), (-1, 2), ("x", 2), (0, "x")])
def test_an_environment_that_makes_no_sense_is_one_rank(script, monkeypatch, rank, world):
    assert _rank(monkeypatch, rank, world=world) == Ranks(0, 1, "audit.txt")


def test_only_rank_0_speaks(script, monkeypatch, capsys):
    for rank, code in ((0, 1), (1, 0)):
        _rank(monkeypatch, rank, None, 2)
        capsys.readouterr()
        assert main(["audit", script, "--steps", "3", "--", "0.5", "--dynamic"]) == code
        said = capsys.readouterr()
        assert bool(said.out) == (rank == 0)
        assert ("this is rank 0 of 2; --output FILE gives a report of all ranks" in said.err) == (rank == 0)


# What is wrong.


def _fails(capsys, *arguments: str) -> str:
    """Expects exit code 2, nothing on stdout, and one line."""
    code = main(["audit", *arguments])
    said = capsys.readouterr()
    assert (code, said.out) == (2, ""), said.err
    assert said.err.count("\n") == 1, said.err
    return said.err


def test_bad_input_is_a_clear_error(script, capsys, tmp_path):
    Path("broken.py").write_text("for x in\n")
    Path("idle.py").write_text("x = 1\n")
    Path("hostile.json").write_text("[" * 100_000)
    assert "none.py: No such file or directory" in _fails(capsys, "none.py")
    assert "broken.py, line 1: invalid syntax" in _fails(capsys, "broken.py")
    assert "idle.py ended without a step" in _fails(capsys, "idle.py")
    assert "-m no_such_module: there is no such module" in _fails(capsys, "-m", "no_such_module")
    assert "expected a script or -m and a module, got neither" in _fails(capsys)
    assert "got both train.py and -m pack" in _fails(capsys, script, "-m", "pack")
    assert "--output none/report: its folder does not exist" in _fails(capsys, script, "--output", "none/report")
    assert "is a folder, expected a file" in _fails(capsys, script, "--output", str(tmp_path))
    assert "none.json: No such file or directory" in _fails(capsys, script, "--baseline", "none.json")
    assert "hostile.json: from_json: $ is " in _fails(capsys, script, "--baseline", "hostile.json")
    assert "--steps is 2" in _fails(capsys, script, "--max-compiles", "0", "--steps", "2")
    assert "--compare runs nothing" in _fails(capsys, script, "--compare", "a.json", "b.json")
    assert "told as text or html, not as sarif" in _fails(capsys, "--compare", "a.json", "b.json", "--format", "sarif")
    assert "a.json: No such file" in _fails(capsys, "--compare", "a.json", "b.json")


def test_nothing_is_run_when_an_option_is_wrong(script, capsys):
    Path("train.py").write_text("open('ran', 'w')")
    _fails(capsys, script, "--output", "none/report")
    _fails(capsys, script, "--baseline", "none.json")
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--steps", "0"], "argument --steps: '0' is not a whole number of at least 1"),
        (["--max-compiles", "-1"], "'-1' is not a whole number of at least 0"),
        (["--fail-on", "dynamic,slow"], "'slow' is none of dynamic, sync, drift, device, unknown"),
        (["--format", "pdf"], "invalid choice: 'pdf'"),
        (["train.py", "--lr", "3"], "unrecognized arguments: --lr 3"),
    ],
)
def test_wrong_arguments_end_with_2(capsys, arguments, text):
    with pytest.raises(SystemExit) as ended:
        main(["audit", *arguments])
    assert ended.value.code == 2
    assert text in capsys.readouterr().err


def test_a_defect_ends_with_3(script, capsys, monkeypatch):
    monkeypatch.setattr("fixshape.cli._audit._judged", lambda *_: 1 / 0)
    assert main(["audit", script, "--steps", "2"]) == 3
    assert "ZeroDivisionError" in capsys.readouterr().err
    # While the script runs, too: it is not the script that has failed.
    assert main(["audit", script, "--steps", "2", "--output", "report"]) == 3


def test_a_disk_that_is_full_is_not_the_scripts_fault(script, capsys, monkeypatch):
    def full(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fixshape.cli._audit.write_atomic", full)
    assert main(["audit", script, "--output", "report"]) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert not Path("report").exists()


def test_after_many_steps_writing_takes_little_of_the_time(script, monkeypatch):
    written = []
    monkeypatch.setattr("fixshape.cli._audit.write_atomic", lambda path, data: written.append(path))
    monkeypatch.setattr("fixshape.cli._audit.time.monotonic", iter(range(10_000)).__next__)
    assert main(["audit", script, "--steps", "39", "--output", "report"]) == 0
    # By this clock writing takes 1 s, and so does each step: 10, then one of 20, then the end.
    assert len(written) == 10 + 1 + 1


def test_a_script_that_swallows_the_stop_is_ended(script):
    """A real process, because it ends with ``os._exit``."""
    swallowing = SCRIPT.replace("for rows in", "while True:\n try:\n  for rows in").replace("\n    ", "\n   ")
    Path("train.py").write_text(swallowing + "\n except BaseException: pass\n")
    command = [sys.executable, "-m", "fixshape.cli", "audit", "train.py", "--steps", "3", "--format", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert from_json(done.stdout).status == "stopped"


def test_torchvisions_detector_end_to_end(tmp_path):
    """The SSDlite as torchvision has it: where its shapes come from, by line, and code 1."""
    source = Path(__file__).parent.parent / "audit" / "scripts" / "ssdlite.py"
    command = [
        sys.executable, "-m", "fixshape.cli", "audit", str(source), "--steps", "3", "--format", "json", "--output", "audit.json",
        "--", "--lr", "0.001", "--workers", "2",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 1, done.stderr
    assert done.stdout.count("loss") == 3, "its own output is its own"
    audit = from_json((tmp_path / "audit.json").read_bytes())
    assert json.loads((tmp_path / "audit.json").read_text()) == json.loads(json.dumps(as_json(audit)))
    assert (audit.status, len(audit.report.steps)) == ("stopped", 3)
    assert [step.dynamic for step in audit.report.steps] == [6, 6, 6]
    sites = {(finding.code, Path(finding.site.file).name, finding.site.function) for finding in audit.findings if finding.site}
    assert ("FS101", "ssd.py", "SSD.compute_loss") in sites and ("FS102", "ssd.py", "SSD.compute_loss") in sites
    assert {Path(finding.caller.file).name for finding in audit.findings if finding.caller} == {"ssdlite.py"}
    assert len(audit.inputs["[0][*]"]) == 3 and set(audit.inputs) == {"[0][*]", "[1][*].boxes", "[1][*].labels"}
