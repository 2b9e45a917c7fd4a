"""Which optimization profiles does TensorRT need for the gears? One for each gear, or a few ranges.

A profile is a range of shapes for each dynamic input: the smallest, the one that kernels are chosen for (opt), the largest.
TensorRT asks for smallest <= opt <= largest on every axis (IOptimizationProfile, docs.nvidia.com/deeplearning/tensorrt).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from fixshape._check import check_at_least
from fixshape.errors import ShapeError, UsageError
from fixshape.export._gears import Gears, Input
from fixshape.export._onnx_header import OnnxHeader, Port

MOST_PROFILES = 32  # of one engine: kernels are chosen, and memory is planned, for each of them
MOST_GEARS = 256  # that are joined to ranges: the time goes with the cube

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ShapeRange:
    """The shapes that one input may have in one profile.

    Args:
        smallest: sizes, one for each axis.
        opt: the shape that kernels are chosen for.
        largest: sizes, one for each axis.

    Raises:
        ShapeError: the three have not the same number of axes, a size is below 1, or they are not in order on some axis; the
            message has the order that is.

    Example:
        >>> ShapeRange((1, 3, 512, 512), (1, 3, 1600, 1600), (1, 3, 1024, 1024))
        Traceback (most recent call last):
            ...
        fixshape.errors.ShapeError: ShapeRange: opt is 1x3x1600x1600, expected between smallest 1x3x512x512 and largest
        1x3x1024x1024 on every axis. Swap them: smallest 1x3x512x512, opt 1x3x1024x1024, largest 1x3x1600x1600.
    """

    smallest: Shape
    opt: Shape
    largest: Shape

    def __post_init__(self) -> None:
        three = (self.smallest, self.opt, self.largest)
        if len({len(shape) for shape in three}) != 1:
            raise ShapeError(
                f"ShapeRange: got {', '.join(map(written, three))}, expected three shapes with the same number of axes."
            )
        for shape in three:
            for size in shape:
                check_at_least("ShapeRange", f"a size of {written(shape)}", size, 1)
        if (ordered := in_order(three)) != three:
            smallest, opt, largest = map(written, three)
            a, b, c = map(written, ordered)
            raise ShapeError(
                f"ShapeRange: opt is {opt}, expected between smallest {smallest} and largest {largest} on every axis."
                f" Swap them: smallest {a}, opt {b}, largest {c}."
            )

    def holds(self, shape: Shape) -> bool:
        """Whether TensorRT runs ``shape`` under this range."""
        return within(shape, self.smallest, self.largest)

    @property
    def fixed(self) -> bool:
        """Whether it is one shape."""
        return self.smallest == self.largest


@dataclass(frozen=True, slots=True)
class Profile:
    """One optimization profile.

    Args:
        ranges: of each dynamic input, by name.

    Example:
        >>> profile = Profile({"images": ShapeRange((1, 3, 320, 320), (4, 3, 320, 320), (4, 3, 320, 480))})
        >>> profile.holds({"images": (2, 3, 320, 400)}), profile.holds({"images": (8, 3, 320, 400)})
        (True, False)
    """

    ranges: Mapping[str, ShapeRange]

    def holds(self, shapes: Mapping[str, Shape]) -> bool:
        """Whether TensorRT runs these shapes under this profile; ``shapes`` may have static inputs too."""
        return all(name in shapes and span.holds(shapes[name]) for name, span in self.ranges.items())


def within(shape: Shape, low: Shape, high: Shape) -> bool:
    """Whether a shape lies between two others on every axis."""
    return len(shape) == len(low) == len(high) and all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True))


def written(shape: Iterable[int]) -> str:
    """A shape as trtexec writes it, ``1x3x320x320``."""
    return "x".join(map(str, shape)) or "scalar"


def in_order(three: tuple[Shape, Shape, Shape]) -> tuple[Shape, Shape, Shape]:
    """The smallest range around three shapes of equal rank, and the middle of each axis: the three sorted on every axis."""
    smallest, opt, largest = zip(*(sorted(axis) for axis in zip(*three, strict=True)), strict=True) if three[0] else ((), (), ())
    return smallest, opt, largest


def plan_profiles(gears: Gears, *, ranges: int | None = None, header: OnnxHeader | None = None) -> tuple[Profile, ...]:
    """The profiles that hold every gear.

    Without ``ranges`` there is one profile for each gear, smallest = opt = largest: nothing is faster, and the caller selects the
    profile by its index. With ``ranges``, gears are joined until that many are left: those first that are nearest to
    each other, measured by how far their sizes are, as ratios, from the one that comes most often, which becomes opt (the largest
    where ``gears`` has no counts). A range also runs shapes that are no gear, and kernels are not chosen for them.

    Args:
        gears: what is to be run.
        ranges: at most so many profiles; ``None`` for one of each gear.
        header: of the ONNX file. An input that is dynamic there gets a range even where ``gears`` gives it one shape: left
            out, trtexec sets its dynamic axes to 1.

    Returns:
        The profiles, in the order of the gears; none where no input is dynamic.

    Raises:
        UsageError: there are more gears than an engine should have profiles, and ``ranges`` is not given; or it is larger
            than that, or there are more gears than can be joined.
        ShapeError: ``ranges`` is below 1.

    Example:
        >>> from fixshape.export import Gears, parse_inputs
        >>> sizes = ({"H": 320, "W": 320}, {"H": 320, "W": 352}, {"H": 640, "W": 640})
        >>> gears = Gears(parse_inputs("images:1,3,H,W"), sizes, counts=(10, 70, 20))
        >>> [profile.ranges["images"].opt for profile in plan_profiles(gears)]
        [(1, 3, 320, 320), (1, 3, 320, 352), (1, 3, 640, 640)]
        >>> plan_profiles(gears, ranges=2)[0].ranges["images"]
        ShapeRange(smallest=(1, 3, 320, 320), opt=(1, 3, 320, 352), largest=(1, 3, 320, 352))
    """
    where = "plan_profiles"
    ways = "Plan fewer buckets, give fewer batch sizes, or"
    if ranges is not None and check_at_least(where, "ranges", ranges, 1) > MOST_PROFILES:
        raise UsageError(f"{where}: ranges is {ranges}, expected at most {MOST_PROFILES}: an engine is built for each.")
    if ranges is None and len(gears) > MOST_PROFILES:
        raise UsageError(
            f"{where}: got {len(gears)} gears, and an engine should have at most {MOST_PROFILES} profiles."
            f" {ways} join them: ranges=4 (on the command line --ranges 4)."
        )
    if len(gears) > MOST_GEARS:
        raise UsageError(f"{where}: got {len(gears)} gears, expected at most {MOST_GEARS}. {ways} write the ranges by hand.")
    names = _dynamic(gears.inputs, header)
    if not names:
        return ()
    every = [gears.shapes(index) for index in range(len(gears))]
    groups = [[index] for index in range(len(gears))] if ranges is None else _joined(gears, ranges)
    profiles = []
    for group in groups:
        opt = every[_opt(gears, group)]
        hull = {name: [every[index][name] for index in group] for name in names}
        profiles.append(Profile({name: _span(shapes, opt[name]) for name, shapes in hull.items()}))
    return tuple(profiles)


def _dynamic(inputs: Sequence[Input], header: OnnxHeader | None) -> list[str]:
    """The inputs that need a range."""
    ports = {port.name: port for port in header.inputs} if header else {}
    return [entry.name for entry in inputs if entry.dynamic or (entry.name in ports and is_dynamic(ports[entry.name]))]


def is_dynamic(port: Port) -> bool:
    """Whether some axis of an input has no size in the file; exporters write 0 or -1 there, too."""
    return port.dims is not None and not all(isinstance(dim, int) and dim > 0 for dim in port.dims)


def settled(header: OnnxHeader) -> OnnxHeader:
    """The header with None for sizes that are none, so that each whole number in it is a size."""

    def port(given: Port) -> Port:
        dims = given.dims
        return given if dims is None else replace(given, dims=tuple(map(_size, dims)))

    return replace(header, inputs=tuple(map(port, header.inputs)), outputs=tuple(map(port, header.outputs)))


def _size(dim: int | str | None) -> int | str | None:
    return None if isinstance(dim, int) and dim < 1 else dim


def _span(shapes: Sequence[Shape], opt: Shape) -> ShapeRange:
    axes = list(zip(*shapes, strict=True))
    return ShapeRange(tuple(map(min, axes)), opt, tuple(map(max, axes)))


def _opt(gears: Gears, group: Sequence[int]) -> int:
    """The gear of a group that comes most often; of equal ones, and without counts, the largest."""

    def key(index: int) -> tuple[int, int]:
        return (gears.counts[index] if gears.counts else 0, sum(map(math.prod, gears.shapes(index).values())))

    return max(group, key=key)


def _joined(gears: Gears, most: int) -> list[list[int]]:
    """Groups of gears: the two whose union lies nearest to its opt are joined, until ``most`` are left."""
    places = [[math.log(gears.values[index][symbol]) for symbol in gears.symbols] for index in range(len(gears))]

    def cost(group: Sequence[int]) -> float:
        centre = places[_opt(gears, group)]
        weights = (gears.counts[index] if gears.counts else 1 for index in group)
        return sum(
            # A gear that never came still has to run: it counts a little.
            max(weight, 1e-3) * sum(abs(a - b) for a, b in zip(places[index], centre, strict=True))
            for index, weight in zip(group, weights, strict=True)
        )

    groups: dict[int, list[int]] = {index: [index] for index in range(len(gears))}
    return _agglomerate(groups, most, cost)


def _agglomerate(groups: dict[int, list[int]], most: int, cost: Callable[[Sequence[int]], float]) -> list[list[int]]:
    costs = {name: cost(group) for name, group in groups.items()}

    def rise(first: int, second: int) -> float:
        return cost(groups[first] + groups[second]) - costs[first] - costs[second]

    rises = {(a, b): rise(a, b) for a in groups for b in groups if a < b}
    while len(groups) > most:
        first, second = min(rises, key=lambda pair: (rises[pair], pair))
        groups[first] = sorted(groups[first] + groups.pop(second))
        costs[first] = cost(groups[first])
        rises = {pair: value for pair, value in rises.items() if not {first, second} & set(pair)}
        rises |= {pair: rise(*pair) for other in groups if other != first for pair in [(min(first, other), max(first, other))]}
    return [groups[name] for name in sorted(groups)]
