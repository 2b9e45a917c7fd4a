"""How is an audit kept in a file, and read back from one that may be hostile? Torch-free.

The data classes are the format: an object has the names of their fields, a tuple is a list, and a mapping whose keys are data
classes is a list of ``[key, value]``. What is read is held against the types that they declare.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

from fixshape._check import shown
from fixshape.audit._finding import Audit
from fixshape.errors import AuditError

SCHEMA_VERSION = 1
MOST_BYTES = 32 << 20  # a recording has at most 30,000 events of about 500 bytes; parsed, 32 MiB can take 1 GB
_MOST = 2**53 - 1  # what every reader of JSON takes for a whole number
_EXIT_CODE = "exit_code"  # the one number that may be negative: a signal
_ANEW = "Write it anew with: fixshape audit SCRIPT --format json --output FILE."


def as_json(audit: Audit) -> dict[str, Any]:
    """An audit as plain data, for :func:`json.dumps`.

    Args:
        audit: what to keep.

    Returns:
        ``schema_version`` (1) and the fields of :class:`Audit`; :func:`from_json` makes an equal audit of them.

    Example:
        >>> from fixshape.audit._report import AuditReport
        >>> as_json(Audit(report=AuditReport((), (), {}, {}), command="train.py"))["command"]
        'train.py'
    """
    return {"schema_version": SCHEMA_VERSION, **_plain(audit)}


def from_json(text: str | bytes) -> Audit:
    """Reads an audit that :func:`as_json` wrote. The text is taken as hostile.

    Nothing in it is run or imported. Its size is checked before it is parsed, then every name, type and range against what the
    data classes declare. The numbers are not held against one another: a file may say that a step had 5 compiles and list none.

    Args:
        text: JSON, in UTF-8 where it is bytes; at most 32 MiB.

    Returns:
        The audit.

    Raises:
        AuditError: it is larger, no JSON, nested too deeply, no audit, or of another schema; the message has the JSON path of
            what is wrong, ``$.findings[3].count``.

    Example:
        >>> from_json('{"schema_version": 2}')
        Traceback (most recent call last):
            ...
        fixshape.errors.AuditError: from_json: $.schema_version is 2, this fixshape reads 1. Update fixshape, or audit anew.
    """
    if len(text) > MOST_BYTES:
        raise AuditError(
            f"from_json: $ has {len(text):,} {'bytes' if isinstance(text, bytes) else 'characters'}, expected at most"
            f" {MOST_BYTES:,}: no audit is that large. {_ANEW}"
        )
    try:
        return _audit(_parse(text))
    except RecursionError:
        raise AuditError(f"from_json: $ is nested too deeply for an audit. {_ANEW}") from None


def _plain(value: Any, kind: Any = None) -> Any:
    if is_dataclass(value):
        declared = _declared(value.__class__)
        return {name: _plain(getattr(value, name), kind) for name, (kind, _) in declared.items()}
    if isinstance(value, tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, Mapping):
        if kind and is_dataclass(get_args(kind)[0]):
            return [[_plain(key), _plain(entry)] for key, entry in value.items()]
        return {key: _plain(entry, get_args(kind)[1] if kind else None) for key, entry in value.items()}
    return value


def _audit(body: Any) -> Audit:
    if not isinstance(body, dict) or "schema_version" not in body:
        raise AuditError(f"from_json: $ is {shown(body)}, expected an object with a schema_version. {_ANEW}")
    version = body.pop("schema_version")
    if type(version) is not int or version != SCHEMA_VERSION:
        raise AuditError(
            f"from_json: $.schema_version is {shown(version)}, this fixshape reads {SCHEMA_VERSION}."
            " Update fixshape, or audit anew."
        )
    audit: Audit = _read(Audit, body, "$")
    return audit


def _parse(text: str | bytes) -> Any:
    try:
        decoded = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        return json.loads(decoded, object_pairs_hook=_object, parse_constant=_no_constant)
    except ValueError as error:  # a JSON or UTF-8 error, a number of thousands of digits, or what _object found
        raise AuditError(f"from_json: $ is not JSON: {error}. {_ANEW}") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        (twice, _), *_ = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"an object has the name {shown(twice)} more than once")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _read(kind: Any, value: Any, path: str) -> Any:
    """The value of a declared type that plain data stands for."""
    if is_dataclass(kind):
        return _read_object(kind, value, path)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        (inner,) = (argument for argument in arguments if argument is not NoneType)
        return None if value is None else _read(inner, value, path)
    if origin is Literal:
        return value if isinstance(value, str) and value in arguments else _wrong(path, value, f"one of {_listed(arguments)}")
    if origin is tuple:
        if not isinstance(value, list):
            _wrong(path, value, "a list")
        return tuple(_read(arguments[0], entry, f"{path}[{index}]") for index, entry in enumerate(value))
    if origin is not None and issubclass(origin, Mapping):
        return _read_mapping(arguments, value, path)
    if kind is int:
        least = -_MOST if path.endswith(f".{_EXIT_CODE}") else 0
        fits = type(value) is int and least <= value <= _MOST
        return value if fits else _wrong(path, value, f"a whole number from {least} to {_MOST}")
    return value if isinstance(value, str) else _wrong(path, value, "a text")


def _read_object(kind: Any, value: Any, path: str) -> Any:
    if not isinstance(value, dict):
        _wrong(path, value, f"an object ({kind.__name__})")
    declared = _declared(kind)
    for name in value:
        if name not in declared:
            raise AuditError(f"from_json: {path} has {shown(name)}, expected only {_listed(declared)}. {_ANEW}")
    for name, (_, required) in declared.items():
        if required and name not in value:
            raise AuditError(f"from_json: {path} has no {name}, expected {_listed(declared)}. {_ANEW}")
    return kind(**{name: _read(declared[name][0], entry, f"{path}.{name}") for name, entry in value.items()})


def _read_mapping(arguments: tuple[Any, ...], value: Any, path: str) -> Any:
    key_kind, entry_kind = arguments
    if not is_dataclass(key_kind):
        if not isinstance(value, dict):
            _wrong(path, value, "an object")
        return {_read(key_kind, key, path): _read(entry_kind, entry, f"{path}[{shown(key)}]") for key, entry in value.items()}
    if not isinstance(value, list):
        _wrong(path, value, "a list of [key, value]")
    found: dict[Any, Any] = {}
    for index, pair in enumerate(value):
        here = f"{path}[{index}]"
        if not isinstance(pair, list) or len(pair) != 2:
            _wrong(here, pair, "[key, value]")
        key = _read(key_kind, pair[0], f"{here}[0]")
        if key in found:
            _wrong(f"{here}[0]", pair[0], "a key that is not in the list yet")
        found[key] = _read(entry_kind, pair[1], f"{here}[1]")
    return found


@cache
def _declared(kind: Any) -> dict[str, tuple[Any, bool]]:
    """The type of each field, and whether it has to be given."""
    hints = get_type_hints(kind)
    missing = {field.name for field in fields(kind) if field.default is MISSING and field.default_factory is MISSING}
    return {field.name: (hints[field.name], field.name in missing) for field in fields(kind)}


def _listed(names: Any) -> str:
    return ", ".join(map(repr, names))


def _wrong(path: str, value: Any, expected: str) -> NoReturn:
    raise AuditError(f"from_json: {path} is {shown(value)}, expected {expected}. {_ANEW}")
