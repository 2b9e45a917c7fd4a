"""What of a command does not arrive at atc as it was meant? What the shell cuts off, spaces, dashes, signs of an input method.

Of rules G1 and G15, and of S1, S9, B3, I3 and D3 what is about such signs. How atc reads words is in
``api/atc/cmd_flag_info.cc`` of the open GE sources.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from fixshape._check import shown
from fixshape.errors import UsageError
from fixshape.export._atc_case import instead
from fixshape.export._atc_options import GEAR_OPTIONS, AtcCommand, plain_value
from fixshape.export._command_line import is_dashed
from fixshape.export._violation import Violation

_WIDE_RULES = {
    "input_shape": "S1",
    "input_shape_range": "S9",
    "dynamic_batch_size": "B3",
    "dynamic_image_size": "I3",
    "dynamic_dims": "D3",
}


def as_read(command: AtcCommand) -> Iterator[Violation]:
    """What of a command does not arrive at atc as it was meant: G1 and G15, and signs that only look like those of the rules."""
    meant = instead(command.meant or command)
    if command.cut:
        yield Violation(
            "G1",
            "E10054",
            f"the shell ends the command before {shown(command.cut)}, expected the value in quotation marks, or \\ as the last"
            " sign of the line",
            "An unquoted ; or an unescaped end of a line ends a command in a shell; a \\ with a space or a comment after it joins"
            " no lines. atc works without the rest, and where that held a required option it says that the option is empty.",
            meant,
        )
    if command.strays:
        dashes = any(map(is_dashed, command.strays))
        more = f" and {len(command.strays) - 3} more" if len(command.strays) > 3 else ""
        yield Violation(
            "G15",
            None,
            f"{', '.join(map(shown, command.strays[:3]))}{more}: no option, expected --NAME=VALUE",
            "atc stops at words that are no options. "
            + ("A text processor makes one dash of two hyphens." if dashes else "A space within a value, or at an =, makes one."),
            meant,
        )
    for name in command.repeated:
        yield Violation(
            "G15", None, f"--{name} is set more than once, expected once", "The last value counts, and nothing is said of it.",
            instead(command), level="warning",
        )  # fmt: skip
    for name, value in command.options if command.meant else ():
        plain = plain_value(name, value)
        if plain != value:
            yield Violation(
                _WIDE_RULES.get(name, "G15"),
                _wide_code(name, value),
                f"--{name} is {shown(value)}, expected ASCII signs: {shown(plain)}",
                "Punctuation of an input method, or curly quotation marks, are letters to a shell and to atc.",
                meant,
            )
        elif value.startswith("="):
            yield Violation(
                "G15", None, f"--{name} is {shown(value)}, expected no space before the =",
                "After a space the next word is the value, with its =.", meant,
            )  # fmt: skip


def _wide_code(name: str, value: str) -> str | None:
    """What atc prints for signs that are not its own."""
    if name == "input_shape":  # they may all end up in a name, which the model then does not have
        parts = value.removesuffix(";").split(";")
        return "E10016" if all(re.fullmatch(r".+:-?[0-9,~-]*", part) for part in parts) else "E10002"
    return {"input_shape_range": "E10048", "dynamic_dims": "E10001"}.get(name, "E10003" if name in _WIDE_RULES else None)


def refuse_variables(command: AtcCommand) -> None:
    """Raises :class:`UsageError` where an option that the rules read has a variable, which only the shell knows."""
    for name in ("mode", "input_shape", "input_shape_range", *GEAR_OPTIONS):
        value = command.get(name)
        variable = next((variable for variable in sorted(command.variables) if variable in value), None)
        if variable:
            word = re.fullmatch(r"\$\{?(\w+)\}?", variable)
            known = f"Say what it holds before the command: '{word[1]}=...; atc ...'." if word else "Put its result there."
            raise UsageError(f"atc: --{name} is {shown(value)}, which only the shell can fill in. {known}")
