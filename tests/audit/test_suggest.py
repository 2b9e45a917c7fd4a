"""Suggestions: the names of the user's line where they can be read, the general rewrite where not, and nothing is ever run."""

import ast

import pytest
import torchvision  # noqa: F401  (its functions are told from models)

from fixshape.audit._catalogue import CATALOGUE
from fixshape.audit._report import Location
from fixshape.audit._source import read_line
from fixshape.audit._suggest import suggest

ROWS = ("f32[8, 4]", "[bool[8]]", "f32[2, 4]")
FLAT = ("f32[8]", "[bool[8]]", "f32[2]")
AS_IT_WAS = "or as it was, inside fixshape.static_indexing()"
KEPT = f"keep all of {{0}} and give valid_mask={{1}} to what follows: masked_sum({{0}}, valid_mask={{1}}); {AS_IT_WAS}"
LINES = [
    ("FS101", "idx = torch.nonzero(mask)", f"idx, valid = fixed_nonzero(mask, size=...)[:2]  # {AS_IT_WAS}"),
    (
        "FS101",
        "idx = torch.nonzero(mask).squeeze(1)",
        f"idx, valid = fixed_nonzero(mask, size=...)[:2]; idx = idx.squeeze(1)  # {AS_IT_WAS}",
    ),
    (
        "FS101",
        "idx = torch.where(iou > best)[0]",
        f"idx, valid = fixed_nonzero(iou > best, size=...)[:2]; idx = idx.squeeze(1)  # {AS_IT_WAS}",
    ),
    (
        "FS101",
        "out = net(torch.nonzero(mask))",
        f"out, valid = fixed_nonzero(mask, size=...)[:2]; out = out.squeeze(1)  # {AS_IT_WAS}",
    ),
    ("FS101", "use((a > 0).nonzero())", f"fixed_nonzero((a > 0), size=...)  # {AS_IT_WAS}"),
    (
        "FS101",
        "ys, xs = torch.where(heat > t)",
        f"found = fixed_nonzero(heat > t, size=...); ys, xs = found.indices.unbind(1)  # valid: found.valid_mask; {AS_IT_WAS}",
    ),
    ("FS102", "total = loss[mask].sum()", "masked_sum(loss, valid_mask=mask)"),
    ("FS102", "total = loss[~mask].mean(0)", "masked_mean(loss, 0, valid_mask=~mask)"),
    ("FS102", "total = torch.sum(loss[keep])", "masked_sum(loss, valid_mask=keep)"),
    ("FS102", "kept = boxes[scores > t]", KEPT.format("boxes", "scores > t")),
    ("FS102", "kept = boxes[order][scores > t]", KEPT.format("boxes[order]", "scores > t")),
    (
        "FS102",
        "loss = F.cross_entropy(logits[m], labels[m], reduction='sum')",
        "masked_cross_entropy(logits, labels, reduction='sum', valid_mask=m)",
    ),
    ("FS102", "loss = F.l1_loss(a[m], target=b[m])", "masked_l1_loss(a, target=b, valid_mask=m)"),
    ("FS103", "y[mask] = fresh[mask]", "y = torch.where(mask, fresh, y)"),
    ("FS103", "y[mask] = fresh", "y = torch.where(mask, fresh, y)  # a value for every row"),
    ("FS103", "y[mask] += fresh[mask]", "y = torch.where(mask, y + fresh, y)"),
    ("FS103", "self.seen[i > 3] *= 2", "self.seen = torch.where(i > 3, self.seen * 2, self.seen)"),
    ("FS103", "total = loss[mask].sum()", "masked_sum(loss, valid_mask=mask)"),
    ("FS104", "total = torch.masked_select(loss, mask).mean()", "masked_mean(loss, valid_mask=mask)"),
    ("FS104", "total = loss.masked_select(mask).sum()", "masked_sum(loss, valid_mask=mask)"),
    (
        "FS105",
        "present = torch.unique(labels)",
        "occurs = torch.zeros(num_classes, dtype=torch.int64, device=labels.device).scatter(0, labels, 1)",
    ),
    (
        "FS106",
        "y = x.repeat_interleave(counts, dim=0)",
        "slots = torch.arange(size, device=counts.device); x[torch.searchsorted(counts.cumsum(0), slots, right=True)"
        ".clamp(max=len(counts) - 1)]  # valid where slots < counts.sum()",
    ),
    (
        "FS107",
        "n = torch.bincount(labels, weights=w)",
        "torch.zeros(num_classes, dtype=w.dtype, device=labels.device).scatter_add(0, labels, w)",
    ),
    ("FS108", "y = F.one_hot(labels)", "F.one_hot(labels, num_classes)"),
    (
        "FS109",
        "perm = torch.randperm(positive.numel(), device=d)[:k]",
        "in place of a random order of positive: keys, rows = torch.rand(len(mask)).masked_fill(~mask, -1).topk(size), valid "
        "where keys >= 0; or balanced_sample(labels, size, positive_fraction)",
    ),
    ("FS110", "keep = nms(boxes, scores, 0.5)", "keep, valid = fixshape.ops.nms(boxes, scores, 0.5, size=len(boxes))"),
    (
        "FS110",
        "kept = box_ops.batched_nms(b, s, lvl, self.t)[:100]",
        "keep, valid = fixshape.ops.batched_nms(b, s, lvl, self.t, size=len(b))",
    ),
    ("FS201", "n = mask.sum().item()", "n = mask.sum()"),
    ("FS201", "n = int(mask.sum())", "n = mask.sum()"),
    ("FS201", "total += loss.item()", "loss.detach()  # stays a tensor"),
    ("FS201", "log(f'{loss.item():.2f}')", "loss.detach()  # stays a tensor"),
    ("FS201", "loss = loss.sum() / max(1, mask.sum())", "mask.sum().clamp(min=1)"),
    ("FS201", "if mask.any():\n    pass", "compute both and choose: torch.where(mask.any(), a, b)"),
    ("FS201", "if bad.any():\n    raise ValueError", "check it in the collate function, on the host: bad.any()"),
    ("FS201", "assert (boxes > 0).all()", "check it in the collate function, on the host: (boxes > 0).all()"),
    (
        "FS202",
        "cost = cost.detach().cpu().numpy()",
        'keep cost on the device; or cost.detach().to("cpu", non_blocking=True), and read it a step later',
    ),
    ("FS203", "top = scores[:k].sum()", "masked_sum(scores, valid_mask=torch.arange(len(scores), device=scores.device) < k)"),
    ("FS203", "rows = torch.arange(n)", "positions = torch.arange(size); valid = positions < n"),
    ("FS204", "same = torch.equal(a, b)", "(a == b).all()"),
    ("FS204", "same = a.allclose(b, atol=1e-3)", "torch.isclose(a, b, atol=0.001).all()"),
]


@pytest.fixture
def at(tmp_path):
    """The place of a line of source."""

    def place(source, line=1, name="train.py"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(source + "\n")
        return Location(str(file), line)

    return place


@pytest.mark.parametrize(("code", "line", "expected"), LINES)
def test_the_names_of_the_line(at, code, line, expected):
    here = at(line)
    assert suggest(code, here, here, FLAT) == expected


@pytest.mark.parametrize(("code", "line"), [("FS101", "y = x[mask]"), ("FS105", "call()"), ("FS201", "optimizer.step()")])
def test_a_line_without_the_call_gets_the_general_rewrite(at, code, line):
    here = at(line)
    assert suggest(code, here, here) == CATALOGUE[code].rewrite


def test_a_mask_with_fewer_dimensions_is_spread(at):
    here = at("y[keep] = fresh[keep]")
    assert suggest("FS103", here, here, ROWS) == "y = torch.where(keep[..., None], fresh, y)"
    assert suggest("FS103", here, here, ("f32[8, 4, 2]", "[bool[8]]")) == "y = torch.where(keep[..., None, None], fresh, y)"
    assert suggest("FS103", here, here, ("f32[8, 4]", "[bool[8, 4]]")) == "y = torch.where(keep, fresh, y)"
    assert suggest("FS103", here, here, ()) == "y = torch.where(keep, fresh, y)"


def test_the_line_among_others(at):
    source = "def f(x, mask):\n    if True:\n        y = (\n            x[mask]\n            .sum()\n        )\n    return y"
    here = at(source, 4)
    assert suggest("FS102", here, here) == "masked_sum(x, valid_mask=mask)"
    assert suggest("FS102", at(source, 7), None) == CATALOGUE["FS102"].rewrite


def test_the_users_line_is_read_where_the_op_is_in_torchvision(at):
    inside = at("return torch.ops.torchvision.nms(boxes, scores, t)", name="torchvision/ops/boxes.py")
    mine = at("keep = torchvision.ops.nms(b, s, 0.5)")
    assert suggest("FS110", inside, mine) == "keep, valid = fixshape.ops.nms(b, s, 0.5, size=len(b))"


def test_torchvisions_own_models_have_a_static_form(at):
    inside = at("a = torch.where(q)", name="torchvision/models/detection/_utils.py")
    text = suggest("FS101", inside, at("losses = detector(images, targets)"))
    assert text.startswith("detector = fixshape.to_static(detector)  # torchvision's own code")
    assert suggest("FS101", inside, None).startswith("model = fixshape.to_static(model)")
    text = suggest("FS101", inside, at("loss = sum(self.model(images, targets).values())"))
    assert text.startswith("self.model = fixshape.to_static(self.model)")


def test_a_function_of_torchvision_that_the_user_calls_is_no_model(at):
    inside = at("keep = torch.where(keep)[0]", name="torchvision/ops/boxes.py")
    for line in ("keep = remove_small_boxes(boxes, 1)", "keep = torchvision.ops.remove_small_boxes(boxes, 1)"):
        assert suggest("FS101", inside, at(line)) == CATALOGUE["FS101"].rewrite


def test_what_cannot_be_read_gets_the_general_rewrite(at, tmp_path):
    general = CATALOGUE["FS101"].rewrite
    (tmp_path / "folder.py").mkdir()
    (tmp_path / "bytes.py").write_bytes(b"\xff\xfe\x00x = 1")
    (tmp_path / "large.py").write_bytes(b"#" * (5 << 20))
    places = [
        None,
        Location(str(tmp_path / "gone.py"), 1),
        Location(str(tmp_path / "folder.py"), 1),
        Location(str(tmp_path / "bytes.py"), 1),
        Location(str(tmp_path / "large.py"), 1),
        Location("/dev/zero", 1),
        Location("null\0byte", 1),
        Location("<string>", 1),
        at("this is no python (", name="broken.py"),
        at("(" * 5000 + ")" * 5000, name="deep.py"),
        at("x = torch.nonzero(y)", 99, name="short.py"),
        at("x = torch.nonzero(y)", -1, name="negative.py"),
    ]
    for place in places:
        assert suggest("FS101", place, place) == general, place


def test_nothing_is_run(at, tmp_path):
    told = tmp_path / "ran"
    here = at(f"idx = torch.nonzero(open({str(told)!r}, 'w'))")
    assert suggest("FS101", here, here).startswith("idx, valid = fixed_nonzero(open(")
    assert not told.exists()


def test_a_line_beyond_reason_gets_the_general_rewrite(at):
    here = at(f"y = loss[{' | '.join(['mask'] * 200)}].sum()")
    assert suggest("FS102", here, here) == CATALOGUE["FS102"].rewrite


def test_an_unknown_code_has_no_rewrite():
    assert suggest("FS999", None, None) == ""


def test_every_suggestion_of_one_statement_is_python():
    whole = [
        expected for _, _, expected in LINES if not expected.startswith(("keep all", "compute", "check", "in place", "keep "))
    ]
    assert len(whole) > 25
    for text in whole:
        ast.parse(text)


def test_the_head_of_a_compound_statement_is_read_and_not_its_body(at):
    line = read_line(at("for i in range(3):\n    x[mask]\nelse:\n    y"))
    assert [ast.unparse(node) for node in line.nodes] == ["i", "range(3)", "range", "3"]
    nested = read_line(at("try:\n    f()\nexcept E:\n    g(x)\n", 4))
    assert ast.unparse(nested.statement) == "g(x)"
    matched = read_line(at("match x:\n    case 1:\n        h(y)\n", 3))
    assert ast.unparse(matched.statement) == "h(y)"


def test_a_file_that_changes_is_read_again(at):
    assert ast.unparse(read_line(at("first()")).statement) == "first()"
    assert ast.unparse(read_line(at("and_the_second()")).statement) == "and_the_second()"
