"""Which shapes of a command would trtexec refuse, or change in silence? Rules T6 to T14."""

from __future__ import annotations

from collections.abc import Iterator

from fixshape.export._trt_flags import SHAPES
from fixshape.export._trt_profiles import Shape, in_order, within, written
from fixshape.export._trt_read import Read, matches
from fixshape.export._trtexec import MAX, MIN, OPT, Ranges, shape_entries, shapes_text, with_crosses
from fixshape.export._violation import Violation

_PROFILE = "A profile is a range: kernels are chosen for opt, and must run everything from min to max."


def _shapes(read: Read) -> Iterator[Violation]:
    for flag in read.command.flags:
        if flag.name not in (*SHAPES, "--shapes"):
            continue
        wrong = [raw or "an entry" for raw, _, sizes in shape_entries(flag.value or "") if sizes is None]
        if wrong:
            mended = with_crosses(flag.value or "")
            if mended == flag.value:
                mended = "name:1x3x224x224, with name and sizes of the model"
            yield Violation(
                "T6", None, f"{flag}: {', '.join(wrong)} has no shape such as name:1x3x224x224",
                "A comma ends an entry, the last colon the name, and x stands between sizes, which are whole numbers.",
                f"{flag.name}={mended}",
            )  # fmt: skip


def _numbers(read: Read) -> Iterator[Violation]:
    profiles, apart = read.read
    if apart:
        told = " and ".join(map(str, apart))
        if read.command.all("--profile"):
            message = f"{told}: not right after a --profile that lacks it"
            why = "The shapes of a profile are the up to three words after its --profile, and no other flag stands between them."
            way_out = f"--profile=<N> {' '.join(map(str, apart))}, beside the others of the profile"
        else:
            message = f"{told}: once more without --profile"
            why = "Without --profile there is one profile, which has each of the three flags once."
            way_out = "--profile=0 " + " ".join(f"{name}=..." for name in SHAPES) + " --profile=1 ..."
        yield Violation("T7", None, message, why, way_out)
    numbers = [profile.number for profile in profiles]
    if sorted(numbers) != list(range(len(numbers))):
        told = ", ".join("no number" if number < 0 else str(number) for number in numbers)
        yield Violation(
            "T7", None, f"profiles are numbered {told}, expected 0 to {len(numbers) - 1}, each once",
            "trtexec makes a profile for each number from 0 on, and refuses those without shapes.",
            " ".join(f"--profile={index} ..." for index in range(len(numbers))),
        )  # fmt: skip
    for profile in profiles:
        if not profile.shapes:
            message = f"profile {profile.number} has no shapes"
            yield Violation("T7", None, message, "An empty profile is refused.", " ".join(f"{name}=..." for name in SHAPES))


def _broadcast(read: Read) -> Iterator[Violation]:
    for profile in read.profiles:
        missing = [name for name in SHAPES if name not in profile.shapes]
        if not missing or not profile.names:
            continue
        filled = profile.filled()
        said = ", ".join(f"{name} becomes {shapes_text(filled[name])}" for name in missing)
        yield Violation(
            "T8", None, f"profile {profile.number}: {said}",
            "What is missing is taken from what is given, so that the range may be another than is meant.",
            " ".join(map(str, profile.flags())), level="warning",
        )  # fmt: skip


def _one_sided(read: Read) -> Iterator[Violation]:
    for profile in read.profiles:
        for name in profile.names:
            lacking = [flag for flag, ranges in profile.shapes.items() if name not in ranges]
            if lacking:
                known = next(ranges[name] for ranges in profile.shapes.values() if name in ranges)
                yield Violation(
                    "T9", None, f"profile {profile.number}: {name} is not in {' and '.join(lacking)}",
                    "A flag that is there must have all inputs of the profile; trtexec completes whole flags only.",
                    " ".join(f"{flag}={shapes_text({**profile.shapes[flag], name: known})}" for flag in lacking),
                )  # fmt: skip


def _order(read: Read) -> Iterator[Violation]:
    for profile in read.effective:
        for name, three in _threes(profile):
            told = f"{name}: min {written(three[0])}, opt {written(three[1])}, max {written(three[2])}"
            if len({len(shape) for shape in three}) > 1:
                message = f"{told}: they have not the same number of axes"
                yield Violation("T10", None, message, _PROFILE, "give each the axes that the input has")
            elif (right := in_order(three)) != three:
                axis, (low, opt, high) = next(
                    (axis, sizes) for axis, sizes in enumerate(zip(*three, strict=True)) if list(sizes) != sorted(sizes)
                )
                wrong = f"min {low} is above max {high}" if low > high else f"opt {opt} is not between {low} and {high}"
                way_out = " ".join(
                    f"{flag}={shapes_text({**profile[flag], name: shape})}" for flag, shape in zip(SHAPES, right, strict=True)
                )
                yield Violation("T10", None, f"{told}: on axis {axis}, {wrong}", _PROFILE, way_out)


def _threes(profile: dict[str, Ranges]) -> Iterator[tuple[str, tuple[Shape, Shape, Shape]]]:
    """The three shapes of each input that has all of them."""
    for name, smallest in profile[MIN].items():
        if name in profile[OPT] and name in profile[MAX]:
            yield name, (smallest, profile[OPT][name], profile[MAX][name])


def _sizes(read: Read) -> Iterator[Violation]:
    named = [(flag, ranges) for profile in read.profiles for flag, ranges in profile.shapes.items()]
    for flag, ranges in [*named, ("--shapes", read.inference)]:
        for name, shape in ranges.items():
            if any(size < 0 for size in shape):
                message = f"{flag}={name}:{written(shape)} has a size below 0"
                why = "-1 is how a network says that an axis is dynamic; a profile says which sizes it may have."
                yield Violation("T11", None, message, why, "the size itself: the smallest, the usual, the largest")
            elif 0 in shape:
                message = f"{flag}={name}:{written(shape)} has a size of 0"
                why = "TensorRT builds for empty tensors too, and few networks mean one."
                yield Violation("T11", None, message, why, "sizes of at least 1", level="warning")


def _quotes(read: Read) -> Iterator[Violation]:
    for flag in read.command.flags:
        if flag.name in (*SHAPES, "--shapes"):
            for raw, name, sizes in shape_entries(flag.value or ""):
                if ":" in name and sizes is not None and not (raw.startswith("'") and "':" in raw):
                    yield Violation(
                        "T12", None, f"{flag.name}: {name} has a colon and stands in no quotes",
                        "The help of trtexec asks for single quotes round such a name, which the shell must not take away.",
                        f"{flag.name}=\"{shapes_text({name: sizes})}\"", level="warning",
                    )  # fmt: skip


def _wildcards(read: Read) -> Iterator[Violation]:
    for index, profile in enumerate(read.effective):
        patterns = [name for name in dict.fromkeys((*profile[MIN], *profile[OPT], *profile[MAX])) if "*" in name]
        for name in patterns:
            if name.count("*") > 1:
                message = f"profile {index}: {name} has {name.count('*')} wildcards, expected at most one"
                why = "trtexec splits a name at its first *, and takes a second one for a letter."
                yield Violation("T13", None, message, why, "one name for each input, or one * in it")
        for port in read.header.inputs if read.header else ():
            matching = [name for name in patterns if matches(name, port.name)]
            if len(matching) > 1 and not any(port.name in ranges for ranges in profile.values()):
                message = f"profile {index}: {' and '.join(matching)} both mean {port.name}"
                yield Violation("T13", None, message, "Which of them trtexec takes is not defined.", f"{port.name}:...")


def _inference(read: Read) -> Iterator[Violation]:
    if not read.runs or read.command.value("--loadEngine") is not None:
        return  # of an engine that is built already nothing is known
    count = max(len(read.profiles), 1)
    if read.selected >= count:
        message = f"--useProfile={read.selected}, and the last profile is {count - 1}"
        yield Violation("T14", None, message, "trtexec builds the engine first, and then fails.", f"--useProfile={count - 1}")
        return
    if len(read.profiles) > 1 and read.command.value("--useProfile") is None:
        message = f"{len(read.profiles)} profiles are built, and profile 0 alone is run"
        way_out = "--skipInference, and then --loadEngine=... --useProfile=<N> for each; or --useProfile=0"
        yield Violation("T14", None, message, "A run of trtexec times one profile.", way_out, level="advice")
    ranges = read.effective[read.selected]
    for name, shape in read.inference.items():
        low, high = ranges[MIN].get(name), ranges[MAX].get(name)
        if low is None or high is None:
            continue
        if not within(shape, low, high):
            message = f"--shapes={name}:{written(shape)} is not between {written(low)} and {written(high)}"
            yield Violation(
                "T14", None, f"{message} of profile {read.selected}",
                "The engine is built, and then refuses the shape when it runs.", f"--shapes={name}:{written(ranges[OPT][name])}",
            )  # fmt: skip


RULES = (_shapes, _numbers, _broadcast, _one_sided, _order, _sizes, _quotes, _wildcards, _inference)
