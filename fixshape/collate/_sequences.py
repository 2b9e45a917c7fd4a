"""Make the batch of sequences: token ids, features and waveforms, padded to the shortest planned length.

Shapes: B rows of the batch (fillers included), t positions of one sequence, T of the padded batch, F features, C channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from fixshape._check import check_at_least, shown
from fixshape.collate._masks import valid_mask
from fixshape.collate._ragged import collate
from fixshape.collate._rule import Pad
from fixshape.collate._structure import Rules
from fixshape.errors import ShapeError, TargetError

_MASK = "attention_mask"


class PadSequences:
    """A ``collate_fn`` that pads sequences to the shortest planned length that covers all of a batch.

    Samples that are sequences become ``(values, lengths)``, the pair that torch and torchaudio work with. Samples that are dicts
    become a dict with an ``attention_mask``, as transformers' models take it. All sequences of a dict have one length; where each
    has its own, or samples are tuples, see :func:`pad_ragged`. Nothing is cut, sorted or packed. The batch is built in shared
    memory in a DataLoader worker, to which the object may be sent.

    Args:
        lengths: T, or several to choose from, as :func:`fixshape.plan.plan_lengths` gives them; each at least 1.
        batch_size: B. A shorter list is completed with fillers: all padding, of length 0. ``None``: B is the length of the list.
        padding_value: what the padding holds; for samples that are dicts ``{key: value}`` with the keys that are sequences. Other
            keys need equal shapes and are stacked. Labels take -100, which ``torch.nn.functional.cross_entropy`` ignores.
        dim: the dimension of a sequence that varies: 0 for ids [t] and features [t, F], -1 for waveforms [C, t].

    Raises:
        ShapeError: ``lengths``, ``batch_size`` or ``dim`` is not one of the above, or ``padding_value`` is an empty dict.
        DtypeError: a padding value is not a number.

    Example:
        torch: values and lengths; the masks are functions of the lengths.

        >>> from fixshape.collate import key_padding_mask
        >>> values, lengths = PadSequences((4, 8))([torch.ones(3, 2), torch.ones(5, 2)])
        >>> values.shape, lengths.tolist()
        (torch.Size([2, 8, 2]), [3, 5])
        >>> encoder = torch.nn.TransformerEncoderLayer(2, 1, batch_first=True)
        >>> encoder(values, src_key_padding_mask=key_padding_mask(lengths, 8)).shape
        torch.Size([2, 8, 2])

        transformers: ``model(**batch)``, from what a tokenizer returns.

        >>> collate = PadSequences((4, 8), padding_value={"input_ids": 0, "labels": -100})
        >>> batch = collate([{"input_ids": [5, 6, 7], "labels": [6, 7, 8]}, {"input_ids": [9], "labels": [4]}])
        >>> batch["input_ids"].tolist(), batch["attention_mask"].tolist()
        ([[5, 6, 7, 0], [9, 0, 0, 0]], [[1, 1, 1, 0], [1, 0, 0, 0]])
        >>> batch["labels"][1].tolist()
        [4, -100, -100, -100]

        torchaudio: ``model(waveforms, lengths)``, time last.

        >>> waveforms, lengths = PadSequences((16000, 32000), dim=-1)([torch.rand(1, 15000), torch.rand(1, 20000)])
        >>> waveforms.shape, lengths.tolist()
        (torch.Size([2, 1, 32000]), [15000, 20000])
    """

    def __init__(
        self,
        lengths: int | Sequence[int],
        *,
        batch_size: int | None = None,
        padding_value: float | Mapping[str, float] = 0,
        dim: int = 0,
    ) -> None:
        if batch_size is not None:
            check_at_least("PadSequences", "batch_size", batch_size, 1)
        if type(dim) is not int:
            raise ShapeError(f"PadSequences: dim is {shown(dim)}, expected a whole number.")
        self.batch_size = batch_size
        self.rules: Rules
        if isinstance(padding_value, Mapping):
            if not padding_value:
                raise ShapeError("PadSequences: padding_value is empty, expected the keys that are sequences: {'input_ids': 0}.")
            self.rules = {key: Pad(lengths, dim, value) for key, value in padding_value.items()}
        else:
            self.rules = Pad(lengths, dim, padding_value)

    def __repr__(self) -> str:
        return f"PadSequences({self.rules}, batch_size={self.batch_size})"

    def __call__(self, samples: Sequence[Any]) -> Any:
        """Pads one batch.

        Args:
            samples: tensors, arrays or lists of numbers, with t positions in ``dim``; or with ``padding_value={key: ...}`` dicts
                that have these keys, and an ``attention_mask`` [t] of their own where there is one (padded with 0).

        Returns:
            Of sequences ``(values, lengths)``: ``values`` [B, ...] with T in place of t, dtype kept; ``lengths`` [B] int64: t.
            Of dicts a dict: the same values for each key of ``padding_value``; ``attention_mask`` [B, T] int64, 1 where real;
            other tensors and numbers stacked, [B, ...]; strings and other objects as lists.

        Raises:
            BucketError: a sequence is longer than every planned length.
            TargetError: the list is empty; samples are not what ``padding_value`` says, or lack a key that others have.
            ShapeError: there are more samples than ``batch_size``; sizes other than the length differ; the sequences of one
                sample differ in length; a key without a padding value varies.
            DtypeError: dtypes of a key differ, or cannot hold the padding value.
        """
        if isinstance(self.rules, Pad):
            if len(samples) and isinstance(samples[0], Mapping):
                raise TargetError(
                    "PadSequences: sample 0 is a dict, and padding_value does not say which keys are sequences."
                    " Give padding_value={key: value}."
                )
            return collate(samples, where="PadSequences", rules=self.rules, batch_size=self.batch_size)
        return self._pad_dicts(samples, self.rules)

    def _pad_dicts(self, samples: Sequence[Any], rules: Any) -> dict[str, Any]:
        first = next(iter(rules))
        if len(samples) and isinstance(samples[0], Mapping) and _MASK in samples[0] and _MASK not in rules:
            rules = {**rules, _MASK: Pad([end for (end,) in rules[first].sizes])}
        batch: dict[str, Any]
        batch, lengths = collate(samples, where="PadSequences", rules=rules, batch_size=self.batch_size)
        for key, own in lengths.items():
            if not torch.equal(own, lengths[first]):
                row = int((own != lengths[first]).nonzero()[0])
                raise ShapeError(
                    f"PadSequences: sample {row} has {int(lengths[first][row])} positions of {first}, but {int(own[row])} of"
                    f" {key}, expected one length. Where each key has its own, use pad_ragged with a rule for each."
                )
        if _MASK not in batch:
            size = batch[first].shape[1:][rules[first].dims[0]]
            batch[_MASK] = valid_mask(lengths[first], size).long()
        return batch
