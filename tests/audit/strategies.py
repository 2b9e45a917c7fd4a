"""Audits of every form that the data classes allow, for property tests."""

from dataclasses import fields, is_dataclass
from types import NoneType, UnionType
from typing import Literal, Union, get_args, get_origin, get_type_hints

from hypothesis import strategies as st

from fixshape.audit._finding import Audit

# Texts with halves of surrogate pairs, as names of files may have them, control characters and markup.
TEXTS = st.one_of(
    st.text(max_size=8),
    st.sampled_from(["\udc80", "</script>", "\x1b[2J", '"><img src=x onerror=alert(1)>', "a.py", "__proto__"]),
)
NUMBERS = st.integers(0, 2**53 - 1)


def of(kind):
    """Values of a declared type."""
    origin, arguments = get_origin(kind), get_args(kind)
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        return st.builds(kind, **{field.name: _field(field, hints[field.name]) for field in fields(kind)})
    if origin in (Union, UnionType):
        return st.one_of(*(st.none() if argument is NoneType else of(argument) for argument in arguments))
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin is tuple:
        return st.lists(of(arguments[0]), max_size=3).map(tuple)
    if origin is not None:
        return st.dictionaries(of(arguments[0]), of(arguments[1]), max_size=3)
    return {str: TEXTS, int: NUMBERS}[kind]


def _field(field, hint):
    if field.name == "exit_code":
        return st.one_of(st.none(), st.integers(-64, 255))
    return of(hint)


AUDITS = of(Audit)
