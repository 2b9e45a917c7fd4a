"""Is an ``atc`` command legal, and would it do what is meant? Every rule, in the order in which atc itself comes to them.

atc stops at the first error; here all are told, and the first is the one that atc would name. Nothing of this has been run with
atc: the rules were read in the open GE sources (2026) and in the manuals of CANN 8.5, and those where the two disagree are
marked.
"""

from __future__ import annotations

from fixshape.export import _atc_rules_gears as gears
from fixshape.export import _atc_rules_general as general
from fixshape.export import _atc_rules_model as model
from fixshape.export import _atc_rules_profiles as profiles
from fixshape.export import _atc_rules_shape as shape
from fixshape.export import _atc_rules_words as words
from fixshape.export._atc_case import Case, Rule
from fixshape.export._atc_options import AtcCommand, parse_atc
from fixshape.export._onnx_header import OnnxHeader
from fixshape.export._violation import Violation

RULES: tuple[Rule, ...] = (
    general.options,
    general.required,
    general.paths,
    general.framework,
    general.products,
    general.input_format,
    shape.range_option,
    shape.ranges_and_gears,
    general.hint_shape,
    general.exclusion,
    general.gears_without_shape,
    shape.syntax,
    shape.silent_values,
    shape.positive,
    gears.batch,
    gears.image,
    gears.dims,
    gears.no_gears_for_air,
    general.aipp,
    model.file,
    model.unlisted,
    model.names,
    model.ranks,
    profiles.profiles,
    model.data_dependent,
    general.soc_version,
)
_MOST_STEPS = 50  # more than any command has errors


def check_atc(command: AtcCommand | str, header: OnnxHeader | None = None) -> tuple[Violation, ...]:
    """Every rule that a command breaks.

    It does not say that atc will build the model: operators, memory and the file's weights are not looked at. Without a header
    the rules on names, ranks and operators are left out.

    Args:
        command: as :func:`parse_atc` gives it, or the line itself.
        header: of the ONNX model, from :func:`read_header`.

    Returns:
        The violations in the order in which atc would come to them. ``way_out`` holds the corrected command on its first line;
        it mends that one violation. Those of level ``"error"`` are errors by the sources or by the manual.

    Raises:
        UsageError: a line is no command of atc, or a shape, a gear option or the mode is a shell variable.

    Example:
        >>> found = check_atc('atc --model=m.onnx --framework=5 --output=m --soc_version=Ascend310P3'
        ...                   ' --input_shape="x:-1,3,64,64" --dynamic_batch_size=8')
        >>> found[0].code, found[0].way_out
        ('E10035', 'atc --model=m.onnx --framework=5 --output=m --soc_version=Ascend310P3 --input_shape=x:8,3,64,64')
    """
    if isinstance(command, str):
        command = parse_atc(command)
    if command.get("help"):
        return ()
    found = list(words.as_read(command))
    command = command.meant or command
    words.refuse_variables(command)
    case = Case(command, header)
    for rule in RULES:
        found += rule(case)
    return tuple(found)


def correct_atc(command: AtcCommand | str, header: OnnxHeader | None = None) -> AtcCommand | None:
    """The command with every error mended, one after the other, by the way out of each.

    Sizes and names that neither the command nor the model tells stand in for the user's own.

    Args:
        command: as for :func:`check_atc`.
        header: of the ONNX model.

    Returns:
        A command without errors; ``None`` where no command helps, since the model is at fault.

    Raises:
        UsageError: as :func:`check_atc`.

    Example:
        >>> line = "atc --model=m.onnx --output=m --soc_version=310P3 --input_shape=x:-1，3 --dynamic_batch_size='1 2'"
        >>> print(correct_atc(line))
        atc --model=m.onnx --output=m --soc_version=Ascend310P3 --input_shape=x:-1,3 --dynamic_batch_size=1,2 --framework=5
    """
    if isinstance(command, str):
        command = parse_atc(command)
    for _ in range(_MOST_STEPS):
        errors = [violation for violation in check_atc(command, header) if violation.level == "error"]
        if not errors:
            return command.meant or command
        ways = [parse_atc(violation.way_out.partition("\n")[0]) for violation in errors]
        mended = next((way for way in ways if way != command), None)
        if mended is None:
            return None
        command = mended
    return None
