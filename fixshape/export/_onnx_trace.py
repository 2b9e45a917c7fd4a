"""Which constants of an ONNX file came from its batch size?

The graph is walked node by node at two batch sizes, the file's own and another, with onnx's shape inference. Where a node does
not fit at the other size, some constant before it holds the file's own size: a target of Reshape or Expand, a repeat of Tile, an
end of Slice, a shape of zeros, or a tensor that repeats one row, as the initial state of an LSTM. The nearest one whose change
makes the node fit is taken. What is found is a proposal: shapes can fit by accident, and only a run proves it.

Shapes: ``N`` the batch size. The *place* of the batch in a tensor is an axis and the number of elements of that axis that one
sample holds in a row: after [L, N, E] is reshaped to [L*N, E] the place is (0, 1), after [N, H, E] to [N*H, E] it is (0, H).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fixshape.errors import ExportError
from fixshape.export._gears import BATCH
from fixshape.export._onnx_constants import Constants, Edit, Grid, Length, Linear, Size, Use, grid_of, is_number, label
from fixshape.export._onnx_infer import Shape, Value, evaluate, infer

if TYPE_CHECKING:
    from onnx import ModelProto

_MOST_TRIED = 256
_MOST_PAIRED = 12
_N = Size((BATCH,))
_Pattern = tuple[object, ...]  # shape, place and target of a Reshape: equal ones are read in one way
_SIZES = {  # inputs whose numbers are sizes: there is no sense in repeating them
    "Reshape": (1,), "Expand": (1,), "Tile": (1,), "ConstantOfShape": (0,), "Resize": (2, 3), "Split": (1,),
    "Slice": (1, 2, 3, 4), "Pad": (1, 3),
}  # fmt: skip
_STATES = {"LSTM": (5, 6), "GRU": (5,), "RNN": (5,)}


class Place(NamedTuple):
    """Where the batch is in a tensor."""

    axis: int
    inner: int  # elements of this axis that one sample holds in a row


class Trace(NamedTuple):
    """What :func:`trace_batch` found."""

    edits: dict[Use, Edit]  # by the node and the input that reads the constant
    shapes: dict[str, Shape]  # of every value whose rank is known, at the file's own batch size
    places: dict[str, Place]  # of every value that has the batch


def trace_batch(
    model: ModelProto,
    shapes: Mapping[str, Sequence[int]],
    axes: Mapping[str, int],
    size: int,
    *,
    is_static: bool = True,
    count_zeros: bool = False,
) -> Trace:
    """Finds the constants that came from the batch size.

    Args:
        model: functions inlined.
        shapes: of each input, at the file's own batch size.
        axes: the batch axis of each input that has one.
        size: the file's own batch size.
        is_static: whether the batch is the one symbol of the inputs, so that a -1 elsewhere can be written as a number.
        count_zeros: whether whole zeros that get a batch axis count the samples; a file for one sample does not say.

    Raises:
        ExportError: a node mixes samples, or does not fit at another batch size whatever constant is changed; it is named.
    """
    turned: dict[_Pattern, int] = {}
    fits: Trace | None = None
    for _ in range(_MOST_TRIED):
        walk = _Walk(model, shapes, axes, size, turned, is_static, count_zeros)
        try:
            walk.run()
        except _MisfitError as misfit:
            odd, problem = misfit.index, str(misfit)
        else:
            found = Trace(walk.edits, {name: both[0] for name, both in walk.shapes.items() if both[0] is not None}, walk.places)
            fits = fits or found
            output, problem = walk.odd_output(), ""
            if output is None:
                return found
            odd = output
        # With one sample, a Reshape can often be read in two ways. The nearest before the misfit is read in the next way.
        before = walk.before(odd)
        patterns = [pattern for pattern, first in walk.choices.items() if first in before]
        while patterns and turned.get(patterns[-1], 0) + 1 >= len(walk.found[patterns[-1]]):
            turned.pop(patterns.pop(), None)
        if not patterns:
            break
        turned[patterns[-1]] = turned.get(patterns[-1], 0) + 1
    else:
        problem = f"set_batch: no reading of its Reshapes fits after {_MOST_TRIED} tries. Export the model anew."
    if fits is None:
        raise ExportError(problem)
    return fits


class _MisfitError(Exception):
    """A node does not fit at the other batch size, or loses the batch."""

    def __init__(self, index: int, message: str) -> None:
        super().__init__(message)
        self.index = index


class _Walk:
    """One pass over the nodes, at the sizes ``(own, probe)``."""

    def __init__(
        self,
        model: ModelProto,
        shapes: Mapping[str, Sequence[int]],
        axes: Mapping[str, int],
        size: int,
        turned: Mapping[_Pattern, int],
        is_static: bool,
        count_zeros: bool,
    ) -> None:
        self.model, self.nodes = model, list(model.graph.node)
        self.sizes = (size, _probe(size))
        self.turned, self.is_static, self.count_zeros = turned, is_static, count_zeros
        self.choices: dict[_Pattern, int] = {}  # the first node of each Reshape that can be read in ways
        self.found: dict[_Pattern, list[Place]] = {}  # these ways
        self.constants = Constants(model)
        self.edits: dict[Use, Edit] = {}
        self.shapes: dict[str, tuple[Shape, Shape]] = {}
        self.values: dict[str, tuple[Value, Value]] = {}
        self.types: dict[str, Any] = {}
        self.places: dict[str, Place] = {}
        self.producers = {name: index for index, node in enumerate(self.nodes) for name in node.output if name}
        for name, array in self.constants.arrays.items():
            self.shapes[name] = (array.shape, array.shape)
            self.values[name] = (array, array) if is_number(array) else (None, None)
            self.types[name] = self.constants.types[name]
        for port in model.graph.input:
            if port.name in self.constants.arrays:
                continue
            own = tuple(shapes[port.name])
            probe = own
            if port.name in axes:
                axis = axes[port.name]
                probe = (*own[:axis], own[axis] // size * self.sizes[1], *own[axis + 1 :])
                self.places[port.name] = Place(axis, 1)
            self.shapes[port.name] = (own, probe)
            self.types[port.name] = port.type.tensor_type.elem_type

    def run(self) -> None:
        for index in range(len(self.nodes)):
            problem = self._step(index)
            if problem and not self._repair(index):
                raise _MisfitError(index, f"set_batch: node {label(self.nodes[index])}: {problem}")

    def odd_output(self) -> int | None:
        """The node of an output that has the batch elsewhere than in an axis 0 that could be it: seldom what was meant."""
        for port in self.model.graph.output:
            place, own = self.places.get(port.name), self.shapes.get(port.name, (None, None))[0]
            if place and own and place.axis and own[0] == self.sizes[0] and port.name in self.producers:
                return self.producers[port.name]
        return None

    def before(self, index: int) -> set[int]:
        """The nodes that a node depends on, itself too."""
        found, further = {index}, [index]
        while further:
            for name in self.nodes[further.pop()].input:
                producer = self.producers.get(name)
                if producer is not None and producer not in found:
                    found.add(producer)
                    further.append(producer)
        return found

    # One node ---------------------------------------------------------------------------------------------------------------

    def _step(self, index: int) -> str | None:
        """Works out a node's outputs at both sizes; says what does not fit."""
        node = self.nodes[index]
        if node.op_type == "Constant" and not node.domain:
            return None
        for name in node.output:
            self.shapes.pop(name, None)
            self.values.pop(name, None)
            self.places.pop(name, None)
        known: list[dict[str, tuple[Any, Shape, Value]]] = []
        for which in (0, 1):
            inputs = [self._input(index, slot, which) for slot in range(len(node.input))]
            try:
                known.append(infer(self.model, node, inputs, self._outer(which)))
            except ValueError as error:
                if which == 0:
                    return None  # it is no worse at the other size: unknown from here on
                if node.op_type not in ("Reshape", "Split") or node.input[0] not in self.places:
                    return self._sentence(index, str(error))
                known.append({})
            value = evaluate(self.model, node, inputs)
            if value is not None:
                name = node.output[0]
                known[-1][name] = (known[-1].get(name, (None,))[0] or value[1], value[0].shape, value[0])
        for name in filter(None, node.output):
            (kind, own, own_value), (_, probe, probe_value) = (side.get(name, (None, None, None)) for side in known)
            self.types[name] = kind
            self.shapes[name] = (own, probe)
            self.values[name] = (own_value, probe_value) if own_value is not None and probe_value is not None else (None, None)
            place = self._place(index, own, probe)
            if place is not None:
                self.places[name] = place
        return self._misfit(index)

    def _input(self, index: int, slot: int, which: int) -> tuple[Any, Shape, Value]:
        name = self.nodes[index].input[slot]
        if not name:
            return None, None, None
        edit = self.edits.get(Use(index, slot))
        if edit is not None:
            array = edit.at({BATCH: self.sizes[which]})
            return self.types[name], array.shape, array if is_number(array) else None
        return self.types.get(name), self.shapes.get(name, (None, None))[which], self.values.get(name, (None, None))[which]

    def _outer(self, which: int) -> dict[str, tuple[Any, Shape]]:
        """What subgraphs may capture."""
        return {name: (self.types.get(name), both[which]) for name, both in self.shapes.items()}

    def _shapes(self, index: int, slot: int) -> tuple[Shape, Shape]:
        return self._input(index, slot, 0)[1], self._input(index, slot, 1)[1]

    def _place(self, index: int, own: Shape, probe: Shape) -> Place | None:
        """Where the batch is in an output of a node."""
        node = self.nodes[index]
        if own is None or probe is None or own == probe or len(own) != len(probe):
            return None
        scaled = [axis for axis, (small, large) in enumerate(zip(own, probe, strict=True)) if small != large]
        before = next((self.places[name] for name in node.input if name in self.places), None)
        if node.op_type in ("Reshape", "Flatten", "Squeeze", "Unsqueeze") and node.input[0] in self.places:
            return self._reshaped(index, own)[0]
        if len(scaled) != 1:
            return None
        inner = before.inner if before is not None else 1
        return Place(scaled[0], inner if own[scaled[0]] % (self.sizes[0] * inner) == 0 else 1)

    # What does not fit ------------------------------------------------------------------------------------------------------

    def _misfit(self, index: int) -> str | None:
        node = self.nodes[index]
        check = {
            "Reshape": self._check_reshape, "Slice": self._check_slice, "Resize": self._check_resize, "Split": self._check_split,
            "GatherElements": self._check_elements, "ScatterElements": self._check_elements,
            "Gather": self._check_gather, "GatherND": self._check_gather, "MatMul": self._check_matmul,
        }.get(node.op_type)  # fmt: skip
        if check is not None and not node.domain:
            return check(index)
        states = _STATES.get(node.op_type, ())
        batch = 0 if any(entry.name == "layout" and entry.i for entry in node.attribute) else 1
        for slot in states:
            if slot < len(node.input) and node.input[slot]:
                data, state = self._shapes(index, 0)[1], self._shapes(index, slot)[1]
                if data and state and data[batch] != state[batch]:
                    return self._sentence(index, f"its initial state {node.input[slot]!r} has another batch size")
        return None

    def _check_matmul(self, index: int) -> str | None:
        """The axes before the matrices' own are repeated where they are 1, and equal else; onnx's inference lets others pass."""
        (_, one), (_, other) = self._shapes(index, 0), self._shapes(index, 1)
        pairs = zip(reversed((one or ())[:-2]), reversed((other or ())[:-2]), strict=False)
        return (
            self._sentence(index, "its inputs are of two batch sizes")
            if any(a != b and 1 not in (a, b) for a, b in pairs)
            else None
        )

    def _check_gather(self, index: int) -> str | None:
        """Constant indices along the batch pick the samples that there were when the file was made."""
        node, attributes = self.nodes[index], {entry.name: entry.i for entry in self.nodes[index].attribute}
        place, own, indices = self.places.get(node.input[0]), self._shapes(index, 0)[0], self._shapes(index, 1)[0]
        if place is None or own is None or not indices or node.output[0] in self.places or node.input[1] in self.places:
            return None
        if node.op_type == "Gather":
            picks = attributes.get("axis", 0) % len(own) == place.axis
        else:
            picks = 0 <= place.axis - attributes.get("batch_dims", 0) < indices[-1]
        if not picks:
            return None
        use = Use(index, 1)
        array = self.constants.arrays.get(node.input[1]) if use not in self.edits else None
        # In a file for one sample the indices cannot show that each next sample lies further on; a Gather takes no other.
        alone = node.op_type == "Gather" and self.sizes[0] == 1 and own[place.axis] == place.inner
        for _, edit in self._changes(use, array, place.inner if alone else None) if array is not None else ():
            self.edits[use] = edit
            if self._step(index) is None and node.output[0] in self.places:
                return None
            del self.edits[use]
        return self._sentence(index, f"its indices are of {list(indices)} at every batch size")

    def _check_elements(self, index: int) -> str | None:
        """GatherElements and ScatterElements go over their inputs side by side, but for one axis of the data."""
        node = self.nodes[index]
        axis = next((entry.i for entry in node.attribute if entry.name == "axis"), 0)
        data, indices = self._shapes(index, 0), self._shapes(index, 1)
        if not data[0] or not data[1] or not indices[0] or not indices[1]:
            return None
        for other in range(len(data[0])):
            equal = data[0][other] == indices[0][other] and data[1][other] != indices[1][other]
            if other != axis % len(data[0]) and equal:
                return self._sentence(index, "its indices are of another batch size than its data")
        if len(node.input) > 2 and self._shapes(index, 2)[1] not in (None, indices[1]):
            return self._sentence(index, "its updates are of another batch size than its indices")
        return None

    def _check_reshape(self, index: int) -> str | None:
        """Reshape keeps the order of its elements, so that the batch has one place in the result."""
        node = self.nodes[index]
        (own, probe), name = self._shapes(index, 0), node.output[0]
        result = self.shapes.get(name, (None, None))
        if node.input[0] not in self.places and probe is not None and result[1] is not None:
            # onnx's inference does not count.
            fits = math.prod(probe) == math.prod(result[1])
            return None if fits else self._sentence(index, f"it gives {_sizes(result[1])}, which has another number of elements")
        if node.input[0] not in self.places or own is None or probe is None or result[0] is None:
            return None
        place, wanted = self._reshaped(index, result[0])
        if place is None:
            return self._sentence(index, f"it joins samples: its result {list(result[0])} has no axis for the batch")
        if result[1] == wanted:
            return None
        if self._scale(index, 1, place.axis, result[0]):
            self.shapes[name], self.places[name] = (result[0], wanted), place
            return None
        return self._sentence(index, f"it gives {_sizes(result[1])}, expected {_sizes(wanted)}")

    def _reshaped(self, index: int, result: tuple[int, ...]) -> tuple[Place | None, tuple[int, ...]]:
        """Where the batch is after a Reshape to ``result``, and the shape at the other size."""
        node = self.nodes[index]
        own, before = self._shapes(index, 0)[0] or (), self.places[node.input[0]]
        stride = before.inner * math.prod(own[before.axis + 1 :])  # elements between one sample and the next
        size, found = self.sizes[0], []
        for axis, length in enumerate(result):
            rest = math.prod(result[axis + 1 :])
            if rest and stride % rest == 0 and length % size == 0 and (length // size) % (stride // rest or 1) == 0:
                if stride // rest >= 1 and stride * size <= rest * length:
                    found.append(Place(axis, stride // rest))
        if not found:
            return None, result
        # An axis that is the batch alone comes first, the outermost of several; else the one whose samples are farthest apart.
        alone = {place: result[place.axis] == size and place.inner == 1 for place in found}
        found.sort(key=lambda place: (not alone[place], place.axis if alone[place] else -place.axis))
        pattern = (own, before, result)
        if len(found) > 1:
            self.found[pattern] = found
            self.choices.setdefault(pattern, index)
        place = found[self.turned.get(pattern, 0)]
        return place, tuple(n // size * self.sizes[1] if axis == place.axis else n for axis, n in enumerate(result))

    def _scale(self, index: int, slot: int, axis: int, result: Sequence[int]) -> bool:
        """Makes one entry of a constant shape follow the batch, where the constant is read by this node itself."""
        node = self.nodes[index]
        array = self.constants.arrays.get(node.input[slot]) if slot < len(node.input) else None
        if array is None or array.ndim != 1:
            return False
        fixed, per_batch = array.copy(), np.zeros_like(array)
        for other, entry in enumerate(array):
            if other == axis:
                fixed[other], per_batch[other] = 0, result[axis] // self.sizes[0]
            elif entry == -1 and self.is_static:
                fixed[other] = result[other]
        self.edits[Use(index, slot)] = Linear(fixed, ((_N, per_batch),))
        return True

    def _check_resize(self, index: int) -> str | None:
        """The sizes of Resize are those of all axes, the batch too; a wrong one would stretch the batch."""
        node = self.nodes[index]
        if len(node.input) < 4 or not node.input[3] or node.input[0] not in self.places:
            return None
        axis, (own, probe), result = self.places[node.input[0]].axis, self._shapes(index, 0), self.shapes[node.output[0]]
        if own is None or probe is None or result[0] is None or result[1] is None or result[1][axis] == probe[axis]:
            return None
        if result[0][axis] == own[axis] and self._scale(index, 3, axis, result[0]):
            return self._step(index)
        return self._sentence(index, f"its sizes give {_sizes(result[1])}, which stretches the batch")

    def _check_slice(self, index: int) -> str | None:
        """A Slice of the whole batch, or of a whole part of it, has ends that follow the batch."""
        node = self.nodes[index]
        place, own, probe = self.places.get(node.input[0]), *self._shapes(index, 0)
        if place is None or own is None or probe is None or len(node.input) < 3:
            return None
        starts, ends, axes = (self._input(index, slot, 0)[2] if slot < len(node.input) else None for slot in (1, 2, 3))
        if starts is None or ends is None:
            return None
        listed = list(range(len(starts))) if axes is None else [int(axis) % len(own) for axis in axes]
        if place.axis not in listed:
            return None
        at, length = listed.index(place.axis), own[place.axis]
        changed = False
        for slot in (1, 2):
            now = [int(self._input(index, slot, which)[2][at]) for which in (0, 1)]  # type: ignore[index]
            if now[0] == 0 or abs(now[0]) > length or now[0] % self.sizes[0] or now[0] != now[1]:
                continue
            array = self.constants.arrays.get(node.input[slot])
            if array is None:
                return self._sentence(index, f"it takes {now[0]} of {length} along the batch, which is not a constant of its own")
            fixed, per_batch = array.copy(), np.zeros_like(array)
            if slot == 2 and now[0] == length:
                fixed[at] = np.iinfo(array.dtype).max
            else:
                fixed[at], per_batch[at] = 0, now[0] // self.sizes[0]
            self.edits[Use(index, slot)] = Linear(fixed, ((_N, per_batch),))
            changed = True
        if changed:
            return self._step(index)
        result = self.shapes[node.output[0]]
        if result[0] is not None and result[1] is not None and result[0][place.axis] == result[1][place.axis] != 0:
            return self._sentence(index, f"it takes {result[0][place.axis]} of {length} along the batch, the same at every size")
        return None

    def _check_split(self, index: int) -> str | None:
        node = self.nodes[index]
        place, (own, probe) = self.places.get(node.input[0]), self._shapes(index, 0)
        axis = next((entry.i for entry in node.attribute if entry.name == "axis"), 0)
        if place is None or own is None or probe is None or axis % len(own) != place.axis:
            return None
        parts = self._input(index, 1, 0)[2] if len(node.input) > 1 and node.input[1] else None
        if parts is not None and int(np.sum(parts)) != probe[place.axis]:
            array = self.constants.arrays.get(node.input[1])
            if array is not None and Use(index, 1) not in self.edits and not (array % self.sizes[0]).any():
                self.edits[Use(index, 1)] = Linear(np.zeros_like(array), ((_N, array // self.sizes[0]),))
                return self._step(index)
            if Use(index, 1) not in self.edits:
                return self._sentence(index, f"it splits the batch into {parts.tolist()}, which holds at this size only")
        return None

    # What would make it fit -------------------------------------------------------------------------------------------------

    def _repair(self, index: int) -> bool:
        """Changes the nearest constant that makes a node fit; or the nearest two, as an LSTM has two states."""
        nearest = list(itertools.islice(self._candidates(index), _MOST_TRIED))
        tries = itertools.chain(((one,) for one in nearest), itertools.combinations(nearest[:_MOST_PAIRED], 2))
        kept = dict(self.edits)
        for changes in tries:
            if len({use for use, _ in changes}) < len(changes):
                continue
            self.edits.update(changes)
            first = min(use.node for use, _ in changes)
            if all(self._step(between) is None for between in range(first, index + 1)):
                return True
            self.edits = dict(kept)
            for between in range(first, index + 1):
                self._step(between)
        return False

    def _candidates(self, index: int) -> Iterator[tuple[Use, Edit]]:
        """Constants before a node that could hold the batch size, nearest first."""
        seen, level = {index}, [index]
        while level:
            further = []
            for current in level:
                node = self.nodes[current]
                for slot, name in enumerate(node.input):
                    if name in self.constants.arrays:
                        yield from self._changes(Use(current, slot), self.constants.arrays[name])
                    producer = self.producers.get(name)
                    # What has the batch is right already, and so is what came before it.
                    if producer is not None and producer not in seen and name not in self.places:
                        seen.add(producer)
                        further.append(producer)
            level = further

    def _changes(self, use: Use, array: np.ndarray[Any, Any], stride: int | None = None) -> Iterator[tuple[Use, Edit]]:
        """The ways in which a constant could follow the batch; ``stride`` is from one sample's indices to the next one's."""
        size, (node, slot) = self.sizes[0], use
        shape_like = array.dtype.kind == "i" and array.ndim <= 1 and array.size <= 64
        if shape_like:
            flat = array.reshape(-1)
            entries = [entry for entry in range(flat.size) if flat[entry] > 0 and flat[entry] % size == 0]
            for entry in sorted(entries, key=lambda entry: (flat[entry] != size, entry)):
                fixed, per_batch = flat.copy(), np.zeros_like(flat)
                fixed[entry], per_batch[entry] = 0, flat[entry] // size
                yield use, Linear(fixed.reshape(array.shape), ((_N, per_batch.reshape(array.shape)),))
        if slot in _SIZES.get(self.nodes[node].op_type, ()):
            return
        for axis in sorted(range(array.ndim), key=lambda axis: (array.shape[axis] != size, axis)):
            factor, rest = divmod(array.shape[axis], size)
            edit = grid_of(array, {axis: Length(_N, factor)}) if factor and not rest else None
            step = stride if stride and array.shape[axis] == 1 else int(self.count_zeros and not array.any())
            if edit is not None and step and array.dtype.kind == "i" and edit.along[0].step is None:
                edit = Grid(edit.first, (edit.along[0]._replace(step=np.full_like(edit.first, step)),))
            if edit is not None:
                yield use, edit

    def _sentence(self, index: int, problem: str) -> str:
        node = self.nodes[index]
        given = ", ".join(
            f"{name} {_sizes(self._shapes(index, slot)[1])}" for slot, name in enumerate(node.input) if name and slot < 4
        )
        return (
            f"{problem} (inputs at batch size {self.sizes[1]}: {given}). No constant before it explains this."
            " Export the model with a dynamic batch axis instead (fixshape export)."
        )


def _probe(size: int) -> int:
    """A prime that hardly any other axis has, and that no other size is a multiple of."""
    return 1009 if size != 1009 else 1013


def _sizes(shape: Shape) -> str:
    return "of unknown shape" if shape is None else str(list(shape))
