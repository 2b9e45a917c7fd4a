"""Which targets take these gears? The same plan checked for ATC, TensorRT, TorchAir and ONNX Runtime, one row each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from fixshape.errors import UsageError
from fixshape.export._atc_options import GEAR_OPTIONS
from fixshape.export._atc_write import write_atc
from fixshape.export._gears import Gears
from fixshape.export._onnx_header import OnnxHeader, dims_text
from fixshape.export._torchair import check_torchair, dim_gears
from fixshape.export._trt_emit import trtexec_command
from fixshape.export._trt_profiles import MOST_GEARS, MOST_PROFILES, Profile, plan_profiles, settled, written
from fixshape.export._trt_read import fits
from fixshape.export._trt_rules import check_trtexec
from fixshape.export._violation import Violation, has_errors
from fixshape.export._violation import as_text as violations_text

_MODEL = "model.onnx"
_RANGES = 4  # that are proposed where there are too many gears for a profile each


@dataclass(frozen=True, slots=True)
class Legality:
    """One row: a target, and whether it takes the gears.

    Args:
        target: ``"ATC"``, ``"TensorRT"``, ``"TorchAir"`` or ``"ONNX Runtime"``.
        how: the gears are said to it.
        violations: the rules of the target that the gears break.
    """

    target: str
    how: str
    violations: tuple[Violation, ...]

    @property
    def legal(self) -> bool:
        """Whether no violation is an error."""
        return not has_errors(self.violations)


def legality(gears: Gears, *, soc_version: str | None = None, header: OnnxHeader | None = None) -> tuple[Legality, ...]:
    """The rows of all targets.

    It holds the shapes against the rules of each tool, and with a header also against the inputs of the file. That a tool has
    every operator of the model, and the memory, it does not say.

    Args:
        gears: what is to be run.
        soc_version: of the Ascend chip; without one, the limits of Ascend310P3 are taken.
        header: of the ONNX file.

    Returns:
        Four rows.

    Example:
        >>> from fixshape.export import Gears, parse_inputs
        >>> rows = legality(Gears(parse_inputs("x:N,3,320,320"), ({"N": 1}, {"N": 4})))
        >>> [(row.target, row.legal) for row in rows]
        [('ATC', True), ('TensorRT', True), ('TorchAir', False), ('ONNX Runtime', True)]
    """
    return (_atc(gears, soc_version, header), _tensorrt(gears, header), _torchair(gears), _onnxruntime(gears, header))


def as_text(rows: Iterable[Legality]) -> str:
    """The rows as a table; under a row the violations of its target.

    Args:
        rows: of :func:`legality`.

    Returns:
        The table.

    Example:
        >>> from fixshape.export import Gears, parse_inputs
        >>> rows = legality(Gears(parse_inputs("x:N,3"), ({"N": 4},)))
        >>> print(as_text(rows[2:]))
        target        legal  how
        TorchAir      no     without gears
            error (A3): no axis has several sizes, expected at least two sizes of one
                set_dim_gears takes two gears or more for an axis.
                instead: torch.compile(model, backend=backend, dynamic=False), without gears
        ONNX Runtime  yes    any shape that the file allows; its TensorRT provider one range
    """
    lines = ["target        legal  how"]
    for row in rows:
        lines.append(f"{row.target:12}  {'yes' if row.legal else 'no':5}  {row.how}")
        lines += [f"    {line}" for line in violations_text(row.violations).splitlines()]
    return "\n".join(lines)


def _refused(error: UsageError) -> tuple[Violation, ...]:
    """What cannot even be written."""
    return (Violation("W1", None, str(error), "The command cannot be written.", ""),)


def _atc(gears: Gears, soc_version: str | None, header: OnnxHeader | None) -> Legality:
    try:
        build = write_atc(gears, model=_MODEL, soc_version=soc_version or "Ascend310P3", header=header)
    except UsageError as error:
        return Legality("ATC", "not at all", _refused(error))
    option = next((name for name in GEAR_OPTIONS if build.command.get(name)), None)
    how = "a fixed shape" if option is None else f"--{option}, {len(gears)} gears"
    return Legality("ATC", how if soc_version else f"{how}, as for Ascend310P3", build.violations)


def _tensorrt(gears: Gears, header: OnnxHeader | None) -> Legality:
    many: tuple[Violation, ...] = ()
    if len(gears) > MOST_PROFILES:
        many = (
            Violation(
                "T0",
                None,
                f"{len(gears)} gears, expected at most {MOST_PROFILES} profiles in one engine",
                "Kernels are chosen, and memory is planned, for each profile.",
                f"fixshape trt --ranges {_RANGES}" if len(gears) <= MOST_GEARS else "fewer buckets or batch sizes",
                level="warning" if len(gears) <= MOST_GEARS else "error",
            ),
        )
        if len(gears) > MOST_GEARS:
            return Legality("TensorRT", "not at all", many)
    try:
        profiles = plan_profiles(gears, ranges=_RANGES if many else None, header=header)
        command = trtexec_command(profiles, onnx=_MODEL, engine="model.plan")
    except UsageError as error:
        return Legality("TensorRT", "not at all", _refused(error))
    return Legality("TensorRT", _profiles(profiles), (*many, *check_trtexec(command, header=header)))


def _profiles(profiles: tuple[Profile, ...]) -> str:
    if not profiles:
        return "a fixed shape"
    kind = "ranges" if any(not span.fixed for profile in profiles for span in profile.ranges.values()) else "one shape each"
    return f"{len(profiles)} profile{'s' * (len(profiles) > 1)}, {kind}"


def _torchair(gears: Gears) -> Legality:
    return Legality(
        "TorchAir", f"{len(gears)} gears, policy zip" if dim_gears(gears).settings else "without gears", check_torchair(gears)
    )


def _onnxruntime(gears: Gears, header: OnnxHeader | None) -> Legality:
    how = "any shape that the file allows; its TensorRT provider one range"
    return Legality("ONNX Runtime", how, tuple(_against_file(gears, settled(header))) if header else ())


def _against_file(gears: Gears, header: OnnxHeader) -> Iterator[Violation]:
    """O1: each input of the file has a shape in each gear, and one that it allows."""
    given = {entry.name for entry in gears.inputs}
    ports = {port.name: port for port in header.inputs}
    why = "onnxruntime refuses to run: names, number of axes and fixed sizes are those of the file."
    for name in [name for name in ports if name not in given] + sorted(given - set(ports)):
        message = f"the file has an input {name}, and the gears have none" if name in ports else f"the file has no input {name}"
        way_out = "--inputs '" + ";".join(f"{port.name}:{dims_text(port.dims)}" for port in header.inputs) + "'"
        yield Violation("O1", None, message, why, way_out)
    for name in sorted(given & set(ports)):
        dims = ports[name].dims
        shapes = dict.fromkeys(gears.shapes(index)[name] for index in range(len(gears)))
        wrong = [shape for shape in shapes if dims is not None and not fits(shape, dims)]
        if wrong:
            message = (
                f"{name}: {written(wrong[0])} is not {dims_text(dims)}, which the file has; {len(wrong)} of {len(shapes)} shapes"
            )
            way_out = "gears of the size that the file has, or make its batch dynamic: fixshape onnx set-batch --to dynamic"
            yield Violation("O1", None, message, why, way_out)
