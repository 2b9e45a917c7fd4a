"""Make the batch of any structure: nested dicts and tuples, each varying value padded by its own rule.

Shapes: B rows of the batch (fillers included), D dimensions that a rule pads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

import torch

from fixshape._check import check_at_least, shown
from fixshape.collate._canvas import stack_padded
from fixshape.collate._rule import Pad
from fixshape.collate._size import Size, choose_size
from fixshape.collate._structure import Column, Objects, Rules, columns, read_structure
from fixshape.collate._values import whole_number
from fixshape.errors import DtypeError, ShapeError, TargetError

_Sizes: TypeAlias = tuple[tuple[Size, ...], bool]  # what rules that share a choice have in common


def pad_ragged(rules: Rules, *, batch_size: int | None = None) -> Callable[[Sequence[Any]], tuple[Any, Any]]:
    """A ``collate_fn`` for samples of any structure, with one rule per value that varies.

    Rules with equal sizes share one choice per batch: an image and its segmentation map get the same canvas, a text and its
    labels the same end, and K sizes make K shapes however many keys there are. It does not compare the values of one sample with
    each other, and it drops, cuts and resizes nothing. The batch is built in shared memory in a DataLoader worker, to which the
    function may be sent.

    Args:
        rules: a :class:`Pad` where the sample has a tensor, an array or a list of numbers that is padded; a dict or a tuple of
            rules where it has a dict or a tuple. What has no rule (a key left out, ``None`` in a tuple) needs equal shapes and is
            stacked.
        batch_size: B. A shorter list is completed with fillers: padded values hold only padding, lengths and what has no rule
            are 0, lists hold ``None``. ``None``: B is the length of the list. A plan's own batch sizes are not read.

    Returns:
        A function from a list of samples to ``(batch, lengths)``. ``batch`` has the structure of a sample: padded and stacked
        tensors [B, ...], dtype kept; numbers as tensors [B]; strings, ``None`` and other objects as lists. ``lengths`` has the
        structure of ``rules``: int64 [B] for a rule of one dimension, [B, D] for more, the true sizes.

        The function raises BucketError for a value larger than every size, or values that no one size covers; ShapeError for
        other dimensions that differ, or for more samples than ``batch_size``; DtypeError for dtypes that differ or cannot hold
        the fill value, or a value that makes no tensor; TargetError for an empty list, or samples whose structures differ from
        each other or from the rules.

    Raises:
        ShapeError: ``batch_size`` is below 1.
        DtypeError: the rules hold something else.

    Example:
        A feature sequence [t, F] and its class:

        >>> samples = [(torch.ones(3, 8), 1), (torch.ones(5, 8), 0)]
        >>> (features, classes), (lengths, _) = pad_ragged((Pad((4, 16)), None))(samples)
        >>> features.shape, lengths.tolist(), classes.tolist()
        (torch.Size([2, 16, 8]), [3, 5], [1, 0])

        Images and their segmentation maps, on one canvas, with 255 for the loss to ignore:

        >>> sample = {"image": torch.rand(3, 30, 40), "labels": torch.ones(30, 40, dtype=torch.int64), "name": "cat"}
        >>> canvas = [(32, 64), (64, 32)]
        >>> collate = pad_ragged({"image": Pad(canvas, dim=(-2, -1)), "labels": Pad(canvas, dim=(-2, -1), fill_value=255)})
        >>> batch, sizes = collate([sample])
        >>> batch["image"].shape, batch["labels"].shape, batch["labels"][0, 31, 0].item(), batch["name"], sizes["image"].tolist()
        (torch.Size([1, 3, 32, 64]), torch.Size([1, 32, 64]), 255, ['cat'], [[30, 40]])

        Recordings [channels, t] and transcripts that have their own ends:

        >>> collate = pad_ragged({"input_values": Pad((16000, 32000), dim=-1), "labels": Pad(64, fill_value=-100)})
        >>> from fixshape.collate import valid_mask
        >>> batch, lengths = collate([{"input_values": torch.rand(1, 9000), "labels": [5, 7, 7]}])
        >>> batch["input_values"].shape, lengths["labels"].tolist(), valid_mask(lengths["input_values"], 16000).sum().item()
        (torch.Size([1, 1, 16000]), [3], 9000)
    """
    _check_rules(rules)
    if batch_size is not None:
        check_at_least("pad_ragged", "batch_size", batch_size, 1)
    return partial(collate, where="pad_ragged", rules=rules, batch_size=batch_size)


def collate(samples: Sequence[Any], *, where: str, rules: Rules, batch_size: int | None) -> tuple[Any, Any]:
    """``(batch, lengths)`` as :func:`pad_ragged` says; ``where`` begins its messages."""
    if len(samples) == 0:
        raise TargetError(f"{where}: got an empty batch, expected at least one sample. Check the batch sampler.")
    rows = len(samples) if batch_size is None else batch_size
    if len(samples) > rows:
        raise ShapeError(f"{where}: got {len(samples)} samples, expected at most batch_size={rows}.")
    tree = read_structure(where, "", samples, rules)
    measured: dict[_Sizes, list[tuple[str, Size]]] = {}
    for column in columns(tree):
        if column.rule is not None:
            measured.setdefault((column.rule.sizes, column.rule.planned), []).extend(column.measured)
    chosen: dict[_Sizes, Size] = {}
    for (sizes, planned), own in measured.items():
        carried = [_bucket(where, *row) for row in enumerate(samples)] if planned else []
        chosen[sizes, planned] = sizes[choose_size(where, sizes, own, carried)]
    return _batch(tree, chosen, rows), _lengths(rules, tree, rows)


def _bucket(where: str, position: int, sample: Any) -> int | None:
    """The bucket that a sample carries, in itself or in its target."""
    if isinstance(sample, tuple | list) and len(sample) == 2:
        sample = sample[1]
    carried = sample.get("bucket") if isinstance(sample, Mapping) else None
    return None if carried is None else whole_number(f"{where}: sample {position}", "bucket", carried)


def _check_rules(rules: Any) -> None:
    if isinstance(rules, Mapping):
        rules = list(rules.values())
    if isinstance(rules, tuple | list):
        for rule in rules:
            _check_rules(rule)
    elif rules is not None and not isinstance(rules, Pad):
        raise DtypeError(f"pad_ragged: a rule is {shown(rules)}, expected a Pad, or a dict or a tuple of them.")


def _batch(tree: Any, chosen: Mapping[_Sizes, Size], rows: int) -> Any:
    if isinstance(tree, Objects):
        return tree.values + [None] * (rows - len(tree.values))
    if isinstance(tree, Column):
        shape, rule = tree.values[0].shape, tree.rule
        canvas = list(shape) if rule is None else rule.canvas(shape, chosen[rule.sizes, rule.planned])
        return stack_padded(tree.values, rows, canvas, 0 if rule is None else rule.fill_value)
    if isinstance(tree, dict):
        return {key: _batch(child, chosen, rows) for key, child in tree.items()}
    parts = [_batch(child, chosen, rows) for child in tree]
    return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)


def _lengths(rules: Rules, tree: Any, rows: int) -> Any:
    """The true sizes, in the structure of the rules."""
    if rules is None:
        return None
    if isinstance(rules, Pad):
        column = torch.tensor([size if len(size) > 1 else size[0] for _, size in tree.measured])
        return torch.cat([column, column.new_zeros(rows - len(column), *column.shape[1:])])
    if isinstance(rules, Mapping):
        return {key: _lengths(rule, tree[key], rows) for key, rule in rules.items()}
    return tuple(_lengths(rule, child, rows) for rule, child in zip(rules, tree, strict=True))
