"""What does a code mean, why does it cost, and what is written instead?

Each pair of snippets is run by a test on the same tensors: ``after`` gives the ``result`` that ``before`` gives, and so does
``before`` itself inside ``static_indexing`` where an entry says that it may stay.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from textwrap import dedent, fill, indent

from fixshape.errors import UsageError

_DYNAMIC = (
    "How long the result is, its values say. The host waits for them, and whatever is computed from the result has a new shape, "
    "so that a device that compiles per shape compiles all of it anew, at this step and at the next."
)
_SYNC = (
    "The host stops until the device has computed the value, and queues nothing meanwhile. XLA cuts the graph of the step here, "
    "a CUDA graph cannot be captured at all."
)
_DRIFT = "What compiles after the warm-up compiles at each new shape, for as long as new shapes come."


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A code, explained.

    Args:
        title: in a few words.
        what: what was found.
        why: what it costs on a device that compiles per shape.
        rewrite: what to write instead, for a line whose names cannot be read.
        before: a snippet that has it, and leaves a number in ``result``.
        after: a snippet without it that leaves the same number there.
        may_stay: ``before`` is static, as it is, inside :func:`fixshape.static_indexing`.
    """

    title: str
    what: str
    why: str
    rewrite: str
    before: str
    after: str
    may_stay: bool = False


def explain(code: str) -> str:
    """The text of ``fixshape explain``: what a finding is, why it costs, and the rewrite.

    Args:
        code: of a finding, in any case: ``"FS101"``.

    Returns:
        Some paragraphs without a newline at the end, snippets of Python among them.

    Raises:
        UsageError: there is no such code; the message names the nearest.

    Example:
        >>> print(explain("FS101").splitlines()[0])
        FS101: nonzero, argwhere, or where with one argument
    """
    entry = CATALOGUE.get(code.upper())
    if entry is None:
        near = difflib.get_close_matches(code.upper(), CATALOGUE, n=3, cutoff=0.6) or sorted(CATALOGUE)
        raise UsageError(f"explain: there is no code {code[:60]!r}. Near it: {', '.join(near)}.")
    parts = [
        f"{code.upper()}: {entry.title}",
        fill(entry.what, 100),
        f"Why it costs\n{_indented(entry.why)}",
        f"Instead\n{_indented(entry.rewrite)}",
        f"Before\n{indent(entry.before, '    ')}",
        f"After\n{indent(entry.after, '    ')}",
    ]
    if entry.may_stay:
        parts.append(f"Or as it was, in a loss that you would rather not rewrite\n{indent(unchanged(entry), '    ')}")
    return "\n\n".join(parts)


def unchanged(entry: Entry) -> str:
    """The snippet that an entry replaces, as it is, inside ``static_indexing``."""
    return f"from fixshape.ops import static_indexing\n\nwith static_indexing():\n{indent(entry.before, '    ')}"


def _indented(text: str) -> str:
    return fill(text, 100, initial_indent="    ", subsequent_indent="    ")


def _entry(title: str, *, what: str, why: str, rewrite: str, before: str, after: str, may_stay: bool = False) -> Entry:
    before, after = dedent(before).strip(), dedent(after).strip()
    return Entry(title=title, what=what, why=why, rewrite=rewrite, before=before, after=after, may_stay=may_stay)


CATALOGUE: dict[str, Entry] = {
    "FS101": _entry(
        "nonzero, argwhere, or where with one argument",
        what="The positions of the True entries: as many rows as there are.",
        why=_DYNAMIC,
        rewrite="fixed_nonzero(condition, size=...) gives as many rows as you say and tells which are real. Where the positions "
        "only choose what is summed, masked_sum(..., valid_mask=condition) needs none. A loss may stay as it is inside "
        "fixshape.static_indexing().",
        may_stay=True,
        before="""
            rows = torch.nonzero(mask).squeeze(1)
            result = x[rows].sum()
        """,
        after="""
            from fixshape.ops import fixed_nonzero, masked_sum

            rows, valid = fixed_nonzero(mask, size=len(mask))[:2]
            result = masked_sum(x[rows.squeeze(1)], valid_mask=valid)
        """,
    ),
    "FS102": _entry(
        "a read by a bool mask",
        what="x[mask]: as many rows as the mask has True entries. An index of integers is not meant, its shape is known.",
        why=_DYNAMIC,
        rewrite="Keep all rows and say which count: masked_sum, masked_mean or the masked loss with valid_mask=mask. A loss "
        "may stay as it is inside fixshape.static_indexing().",
        may_stay=True,
        before="""
            result = loss[mask].mean()
        """,
        after="""
            from fixshape.ops import masked_mean

            result = masked_mean(loss, valid_mask=mask)
        """,
    ),
    "FS103": _entry(
        "a write by a bool mask",
        what="x[mask] = rows, or the gradient of x[mask]. The kernel looks for the positions first. x[mask] = number is not "
        "meant: that is a fill, and static.",
        why=_DYNAMIC,
        rewrite="torch.where(mask, new, x) with a new value for every row; for the gradient of a read, mend the read. A loss may "
        "stay as it is inside fixshape.static_indexing().",
        may_stay=True,
        before="""
            y = x.clone()
            y[mask] = fresh[mask]
            result = y.sum()
        """,
        after="""
            y = torch.where(mask[..., None], fresh, x)
            result = y.sum()
        """,
    ),
    "FS104": _entry(
        "masked_select",
        what="The chosen values in one row, as long as there are chosen values.",
        why=_DYNAMIC,
        rewrite="Keep all values and say which count: masked_sum, masked_mean or the masked loss with valid_mask=mask. A loss "
        "may stay as it is inside fixshape.static_indexing().",
        may_stay=True,
        before="""
            result = torch.masked_select(x, x > 0).mean()
        """,
        after="""
            from fixshape.ops import masked_mean

            result = masked_mean(x, valid_mask=x > 0)
        """,
    ),
    "FS105": _entry(
        "unique",
        what="The different values, as many as there are.",
        why=_DYNAMIC,
        rewrite="Where the values are classes, mark those that occur: torch.zeros(classes).scatter(0, labels, 1). For "
        "neighbours that repeat, compare each with the one before it.",
        before="""
            result = torch.unique(labels).numel()
        """,
        after="""
            occurs = torch.zeros(num_classes, dtype=torch.int64, device=labels.device).scatter(0, labels, 1)
            result = occurs.sum()
        """,
    ),
    "FS106": _entry(
        "repeat_interleave by a tensor",
        what="Each row as often as a tensor says: as many rows as its values add up to.",
        why=_DYNAMIC,
        rewrite="Say how many slots there are and look up which row each one holds. Where the total is always the same, "
        "output_size=total is enough.",
        before="""
            result = torch.repeat_interleave(x, counts, dim=0).sum()
        """,
        after="""
            from fixshape.ops import masked_sum

            slots = torch.arange(size, device=counts.device)
            ends = counts.cumsum(0)
            rows = torch.searchsorted(ends, slots, right=True).clamp(max=len(x) - 1)
            result = masked_sum(x[rows], valid_mask=slots < ends[-1])
        """,
    ),
    "FS107": _entry(
        "bincount",
        what="As many counts as the largest value says, with minlength too.",
        why=_DYNAMIC,
        rewrite="Add into as many counts as there are classes: torch.zeros(classes).scatter_add(0, labels, ones).",
        before="""
            result = (torch.bincount(labels) ** 2).sum()
        """,
        after="""
            counts = torch.zeros(num_classes, dtype=torch.int64, device=labels.device)
            counts = counts.scatter_add(0, labels, torch.ones_like(labels))
            result = (counts**2).sum()
        """,
    ),
    "FS108": _entry(
        "one_hot without a number of classes",
        what="As many columns as the largest value says; the host reads it.",
        why=_DYNAMIC,
        rewrite="Give the number of classes: one_hot(labels, num_classes).",
        before="""
            result = torch.nn.functional.one_hot(labels).sum()
        """,
        after="""
            result = torch.nn.functional.one_hot(labels, num_classes).sum()
        """,
    ),
    "FS109": _entry(
        "randperm of a length that varies",
        what="A random order of as many entries as an earlier op happened to find.",
        why=_DYNAMIC,
        rewrite="Give every entry a random key and take the largest keys of those that may be chosen, or call balanced_sample, "
        "which draws positives and negatives so. Each choice stays equally likely, the stream of random numbers is another.",
        before="""
            rows = torch.nonzero(mask).squeeze(1)
            rows = rows[torch.randperm(rows.numel())[:64]]
            result = x[rows].sum()
        """,
        after="""
            from fixshape.ops import masked_sum

            keys = torch.rand(len(mask), device=mask.device).masked_fill(~mask, -1)
            keys, rows = keys.topk(min(64, len(mask)))
            result = masked_sum(x[rows], valid_mask=keys >= 0)
        """,
    ),
    "FS110": _entry(
        "nms of torchvision",
        what="As many boxes as are kept. torch-npu has no kernel for it and runs it on the host.",
        why=_DYNAMIC,
        rewrite="fixshape.ops.nms and batched_nms keep the same boxes, in a fixed number of slots.",
        before="""
            keep = torchvision.ops.nms(boxes, scores, 0.5)
            result = scores[keep].sum()
        """,
        after="""
            from fixshape.ops import masked_sum, nms

            keep, valid = nms(boxes, scores, 0.5, size=len(boxes))
            result = masked_sum(scores[keep], valid_mask=valid)
        """,
    ),
    "FS111": _entry(
        "the gradient of masked_scatter",
        what="masked_scatter itself is static; the gradient of what it scatters is read by the mask.",
        why=_DYNAMIC,
        rewrite="Look up the row that each place gets, and choose with torch.where. A loss may stay as it is inside "
        "fixshape.static_indexing().",
        may_stay=True,
        before="""
            source = fresh.clone().requires_grad_()
            x.masked_scatter(mask[:, None], source).square().sum().backward()
            result = source.grad.sum()
        """,
        after="""
            source = fresh.clone().requires_grad_()
            rows = (mask.cumsum(0) - 1).clamp(min=0)
            torch.where(mask[:, None], source[rows], x).square().sum().backward()
            result = source.grad.sum()
        """,
    ),
    "FS112": _entry(
        "a sparse tensor is made or coalesced",
        what="As many entries as there are values other than zero, or different places.",
        why=_DYNAMIC,
        rewrite="Stay dense: index_add or scatter_add into a tensor of the full size, products with a dense matrix.",
        before="""
            sparse = torch.sparse_coo_tensor(labels[None], loss, (num_classes,), check_invariants=True).coalesce()
            result = (sparse.values() ** 2).sum()
        """,
        after="""
            dense = torch.zeros(num_classes, device=loss.device).index_add(0, labels, loss)
            result = (dense**2).sum()
        """,
    ),
    "FS113": _entry(
        "pack_padded_sequence",
        what="The real entries of all sequences in one row, as long as their lengths add up to.",
        why=_DYNAMIC,
        rewrite="Run over the padded sequences and mask afterwards: a recurrent layer in one direction gives the real entries "
        "the same states. For the last state gather at lengths - 1.",
        before="""
            packed = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
            result = packed.data.sum()
        """,
        after="""
            from fixshape.ops import masked_sum

            valid = torch.arange(x.shape[1]) < lengths[:, None]
            result = masked_sum(x, valid_mask=valid)
        """,
    ),
    "FS114": _entry(
        "ctc_loss with lengths in tensors",
        what="Its table is as wide as the longest target, which the host reads.",
        why=_DYNAMIC,
        rewrite="There is no static form yet. Compute this loss on the host; its inputs are small.",
        before="""
            result = torch.nn.functional.ctc_loss(log_probs, words, input_lengths, word_lengths)
        """,
        after="""
            on_host = [tensor.cpu() for tensor in (log_probs, words, input_lengths, word_lengths)]
            result = torch.nn.functional.ctc_loss(*on_host).to(log_probs.device)
        """,
    ),
    "FS115": _entry(
        "lstsq",
        what="The solution has a known shape, the residuals are there or not by the rank.",
        why=_DYNAMIC,
        rewrite="torch.linalg.pinv(a) @ b, or solve the normal equations.",
        before="""
            result = torch.linalg.lstsq(x, loss[:, None]).solution.sum()
        """,
        after="""
            result = (torch.linalg.pinv(x) @ loss[:, None]).sum()
        """,
    ),
    "FS201": _entry(
        "a value is read on the host",
        what="item(), tolist(), int(), float(), bool(), an if on a tensor, a tensor as an index of a Python list.",
        why=_SYNC,
        rewrite="Keep the value a tensor: clamp(min=1) for max(1, n), torch.where for an if. For a log, detach it now and read "
        "it every hundredth step.",
        before="""
            result = loss.sum() / max(1, int(mask.sum()))
        """,
        after="""
            result = loss.sum() / mask.sum().clamp(min=1)
        """,
    ),
    "FS202": _entry(
        "a tensor is copied to the host",
        what="cpu(), numpy(), np.asarray(x), to('cpu'), with the host waiting for it. A batch that is still on the host is not "
        "meant.",
        why=_SYNC,
        rewrite="Compute it on the device with an op of fixed shape; what the host does need, copy with non_blocking=True and "
        "look at it a step later.",
        before="""
            hard = (loss > 0.5).cpu().numpy()
            result = loss.numpy()[hard].sum()
        """,
        after="""
            from fixshape.ops import masked_sum

            result = masked_sum(loss, valid_mask=loss > 0.5)
        """,
    ),
    "FS203": _entry(
        "a slice, range or size from a value read on the host",
        what="A Python int that was read from a tensor says how long something is.",
        why=_DYNAMIC,
        rewrite="Keep the full length and compare positions with the length, which stays a tensor: torch.arange(len(x)) < n is a "
        "valid_mask.",
        before="""
            n = int(mask.sum())
            result = x[:n].sum()
        """,
        after="""
            from fixshape.ops import masked_sum

            valid = torch.arange(len(x), device=x.device) < mask.sum()
            result = masked_sum(x, valid_mask=valid)
        """,
    ),
    "FS204": _entry(
        "two tensors are compared on the host",
        what="torch.equal and torch.allclose answer with a Python bool.",
        why=_SYNC,
        rewrite="(a == b).all() and torch.isclose(a, b).all() answer with a tensor.",
        before="""
            result = float(torch.equal(x, fresh))
        """,
        after="""
            result = (x == fresh).all()
        """,
    ),
    "FS301": _entry(
        "an op compiles after the warm-up",
        what="A new shape came, and neither a dynamic-shape op nor an input that varies was seen to bring it.",
        why=_DRIFT,
        rewrite="Look at the shapes of the finding: a last batch that is shorter (drop_last=True), a Python list that grows, a "
        "branch that is seldom taken. Run more warm-up steps where it compiles once and never again.",
        before="""
            result = sum(rows.square().sum() for rows in x.split(3))
        """,
        after="""
            padded = torch.nn.functional.pad(x, (0, 0, 0, -len(x) % 3))
            result = sum(rows.square().sum() for rows in padded.split(3))
        """,
    ),
    "FS302": _entry(
        "inputs whose shapes vary",
        what="The loader gives batches of different shapes: images of different sizes, or another number of boxes.",
        why=_DRIFT,
        rewrite="Pad to few shapes: fixshape.plan_buckets chooses them, fixshape.PadToBucket is the collate function, and "
        "valid_mask says what is real.",
        before="""
            result = ragged.mean()
        """,
        after="""
            from fixshape.ops import masked_mean

            padded = torch.nn.functional.pad(ragged, (0, size - len(ragged)))  # in the collate function
            result = masked_mean(padded, valid_mask=torch.arange(size) < len(ragged))
        """,
    ),
    "FS303": _entry(
        "a Python number that varies",
        what="An int argument is part of what an op is compiled for, and it changes from step to step: a step counter, a "
        "position.",
        why=_DRIFT,
        rewrite="Give it as a float, which is no part of the key, or as a tensor that is filled. A size (of arange, zeros, rand, "
        "repeat) varies because a shape does: pad that to few sizes.",
        before="""
            result = (x * step).sum()
        """,
        after="""
            result = (x * float(step)).sum()
        """,
    ),
    "FS401": _entry(
        "float64",
        what="An op in double precision. It is often an accident: a numpy array, a dtype that was forgotten.",
        why="NPUs and TPUs have no unit for it: they emulate it, fall back to the host, or refuse.",
        rewrite="Say float32 where the tensor is made; numpy arrays need astype('float32') before they become tensors.",
        before="""
            result = (x.double() * 2).sum()
        """,
        after="""
            result = (x * 2).sum()
        """,
    ),
    "FS402": _entry(
        "an op without a kernel for the NPU",
        what="torch-npu 2.9 registers no kernel for this op.",
        why="It runs on the host: its inputs are copied there, its results back, and the device waits meanwhile.",
        rewrite="Write it with ops that have one: for RoIAlign fixshape.ops.multiscale_roi_align, for the Huber loss the smooth "
        "L1 loss times delta.",
        before="""
            result = torch.nn.functional.huber_loss(x, fresh, delta=0.5)
        """,
        after="""
            result = 0.5 * torch.nn.functional.smooth_l1_loss(x, fresh, beta=0.5)
        """,
    ),
    "FS403": _entry(
        "complex numbers",
        what="An op on a complex tensor.",
        why="NPUs and TPUs compute few ops on complex numbers, and those slowly; the others fall back to the host.",
        rewrite="Carry the real and the imaginary part as two tensors.",
        before="""
            result = (torch.complex(x, fresh) * torch.complex(fresh, x)).abs().sum()
        """,
        after="""
            real, imaginary = x * fresh - fresh * x, x * x + fresh * fresh
            result = (real.square() + imaginary.square()).sqrt().sum()
        """,
    ),
}
