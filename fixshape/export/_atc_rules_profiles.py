"""Which rules hold for the set of gears, whatever kind they are? Numbers P1 to P6.

Sources: ``multi_batch_options.cc`` of the open GE sources, the atc manual (CANN 8.5), and its ``atc_shape_configuration_guide``.
"""

from __future__ import annotations

from collections.abc import Iterator

from fixshape.export._atc_case import DIMS_OPTION, STANDS_IN, Case, instead
from fixshape.export._violation import Violation

MOST_GEARS, MOST_GEARS_950 = 100, 256
_ADVISED = 4


def most_gears(soc_version: str) -> int:
    """How many gears a chip may have."""
    return MOST_GEARS_950 if soc_version.startswith("Ascend950") else MOST_GEARS


def profiles(case: Case) -> Iterator[Violation]:
    """P1 to P6."""
    gears, most = case.gears, most_gears(case.get("soc_version"))
    option, clean = next(iter(case.gear_options), ""), case.clean_gears
    if not clean:  # there are none, or B3, I3 and D3 speak of them
        return
    if len(gears) < 2:
        yield Violation(
            "P1",
            "E10035",
            f"--{option} has {len(gears)} gear, expected 2 to {most}",
            "One gear is a fixed shape, and is written as one.",
            instead(case.single(clean[0])),
        )
    if len(gears) > most:
        yield Violation(
            "P2",
            "E10036",
            f"--{option} has {len(gears)} gears, expected at most {most}",
            f"The manual says {MOST_GEARS}, and {MOST_GEARS_950} for Ascend 950. Older CANN refuses more, the sources of"
            " 2026 no longer count.",
            instead(
                case.with_gears(_thinned(clean, most)),
                "every so many-th is kept; a plan with fewer buckets keeps the padding low",
            ),
            doubtful=True,
        )
    lengths = sorted({len(gear) for gear in gears}, reverse=True)
    if len(lengths) > 1:
        width = len(case.free_axes) if option == DIMS_OPTION and case.free_axes else lengths[0]
        padded = [(gear + (max(gear),) * width)[:width] for gear in clean]
        yield Violation(
            "P3",
            "E10037",
            f"--{option} has gears of {lengths[0]} and of {lengths[-1]} numbers, expected the same of all",
            "Each gear says a size for the same axes.",
            instead(case.with_gears(padded), STANDS_IN),
        )
    zeros = [gear for gear in clean if 0 in gear]
    if zeros:
        kept = [gear for gear in clean if 0 not in gear]
        yield Violation(
            "P4",
            "E10038",
            f"the gear {','.join(map(str, zeros[0]))} of --{option} has a 0, expected at least 1",
            "No axis is empty. The sources of 2026 refuse negative sizes only, so that newer CANN may let a 0 through.",
            instead(case.with_gears(kept)),
            doubtful=True,
        )
    twice = [gear for index, gear in enumerate(gears) if gear in gears[:index]]
    if twice:
        yield Violation(
            "P5",
            "E10039",
            f"the gear {','.join(twice[0])} of --{option} comes twice, expected each once",
            "The gears are told apart by their sizes.",
            instead(case.with_gears(clean)),
        )
    if option == DIMS_OPTION and _ADVISED < len(gears) <= most:
        yield Violation(
            "P6",
            None,
            f"--dynamic_dims has {len(gears)} gears, expected {_ADVISED} or fewer where that will do",
            "Each is compiled as a model of its own, so that the build takes as many times as long, and the memory is"
            " that of the largest. The manual advises 3 or 4.",
            instead(case.with_gears(_thinned(clean, _ADVISED)), "or a plan with fewer buckets: fixshape plan --buckets 4"),
            level="advice",
        )


def _thinned(gears: list[tuple[int, ...]], most: int) -> list[tuple[int, ...]]:
    """So many gears, evenly from the list, the first and the last among them."""
    unique = list(dict.fromkeys(gears))
    if len(unique) <= most:
        return unique
    return [unique[index * (len(unique) - 1) // (most - 1)] for index in range(most)]
