"""A loader, run through several times as one: groups of batches, and what is done between two steps."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch

from fixshape.errors import ShapeError
from fixshape.train._batch import Group
from fixshape.train._prefetch import Ahead


class Rounds:
    """Hands out the groups of all rounds.

    Outside of every step ``before`` is called with each batch that comes in, ``after`` with each group that was trained on, and
    ``at_end`` between two rounds and after the last step.

    Args:
        loader: gives batches.
        epochs: how many rounds, where ``steps`` is ``None``.
        steps: how many groups in all, those done before included.
        accumulate: batches of a group; the last one of a round has what is left.
        places: whether each group has the loader's place after it; the loader is a ``BucketLoader`` then.
        ahead: moves the batches.
        before: see above.
        after: see above.
        at_end: see above.
    """

    def __init__(
        self,
        loader: Iterable[Any],
        *,
        epochs: int,
        steps: int | None,
        accumulate: int,
        places: bool,
        ahead: Ahead,
        before: Callable[[Any], None],
        after: Callable[[Group], None],
        at_end: Callable[[], None],
    ) -> None:
        self.done = 0
        """Groups that were trained on."""
        self.round = 0
        """Rounds that were run through."""
        self._loader = loader
        self._epochs = epochs
        self._steps = steps
        self._accumulate = accumulate
        self._places = places
        self._ahead = ahead
        self._before = before
        self._after = after
        self._at_end = at_end
        self._in_a_round = self._has_drawn = False

    def resume(self, done: int, rounds: int) -> None:
        """Goes on after ``done`` groups, in the round with that number; the loader knows its place in it."""
        self.done = done
        self.round = rounds
        loader: Any = self._loader
        self._in_a_round = bool(loader.state_dict()["step"])
        self._has_drawn = self._in_a_round or loader.persistent_workers

    def let_go(self) -> None:
        """Forgets whom it calls. They know it, too, and so the loader would be left to the garbage collector: that waits five
        seconds for each of its persistent workers.
        """
        del self._before, self._after, self._at_end

    def is_over(self, group: Group) -> tuple[bool, bool]:
        """Whether the group is the last of its round, and whether it is the last of all, where its place tells."""
        at_end = group.place is not None and group.place["step"] == 0
        return at_end, self.done == self._steps or (self._steps is None and at_end and self.round + 1 == self._epochs)

    def __len__(self) -> int:
        if self._steps is not None:
            return max(self._steps - self.done, 0)
        rounds = self._epochs * -(-len(self._loader) // self._accumulate)  # type: ignore[arg-type]
        return max(rounds - self.done, 0)

    def __iter__(self) -> Iterator[Group]:
        if self.done and (not self._in_a_round or self._is_done()):
            self._at_end()  # the process that was here may have been ended in it
        while not self._is_done():
            before = self.done
            left = None if self._steps is None else (self._steps - self.done) * self._accumulate
            for group in self._ahead.groups(self._groups(left)):
                yield group
                self.done += 1
                self._after(group)
            if self.done == before:
                raise ShapeError(
                    "fit: the loader gave no batch. Has it fewer samples than a batch, with drop_last? An iterator can be run"
                    " through only once."
                )
            self.round += 1
            self._at_end()

    def _is_done(self) -> bool:
        return self.done >= self._steps if self._steps is not None else self.round >= self._epochs

    def _groups(self, left: int | None) -> Iterator[Group]:
        batches = _without_a_draw(self._loader) if self._has_drawn else iter(self._loader)
        self._has_drawn = False
        batches = itertools.islice(batches, left)
        while group := tuple(self._counted(itertools.islice(batches, self._accumulate))):
            yield Group(group, self._loader.state_dict() if self._places else None)  # type: ignore[attr-defined]

    def _counted(self, batches: Iterator[Any]) -> Iterator[Any]:
        for batch in batches:
            self._before(batch)
            yield batch


def _without_a_draw(loader: Any) -> Iterator[Any]:
    """An epoch for which the loader of the run that is resumed had drawn from torch's generator what it draws as it begins.

    That is a seed for workers: in each epoch, or in the first alone where they persist.
    """
    own, loader.generator = loader.generator, torch.Generator()
    loader.generator.manual_seed((torch.initial_seed() + 1) % 2**63)
    try:
        batches = iter(loader)
        first = next(batches)
    finally:
        loader.generator = own
    yield first
    yield from batches
