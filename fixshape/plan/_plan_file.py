"""How a plan is kept in a file, and read back from one that may be hostile."""

from __future__ import annotations

import hashlib
import json
import os
from typing import Any, NamedTuple

from fixshape._check import shown
from fixshape._files import read_limited
from fixshape.errors import FixshapeError, PlanError
from fixshape.plan._bucket import Bucket
from fixshape.plan._certificate import Certificate
from fixshape.plan._rows import MOST_BOXES, MOST_PIXELS

SCHEMA_VERSION = 2  # 1 has buckets only, and is still what a plan of buckets only is written as
_MOST_BYTES = 1 << 20  # a plan of 10,000 buckets is a quarter of this
_MOST_BATCH = 1 << 32


class PlanBody(NamedTuple):
    """What makes a plan, and what is proven of it."""

    buckets: tuple[Bucket, ...]
    fallback: Bucket | None
    batch_sizes: tuple[int, ...] | None
    certificate: Certificate | None


def digest_of(body: PlanBody) -> str:
    """A short hash of what makes a plan that plan: the certificate does not."""
    rows: Any = [_row(bucket) for bucket in body.buckets]
    if body.fallback is not None or body.batch_sizes is not None:
        rows = {"buckets": rows, "fallback": _row(body.fallback), "batch_sizes": body.batch_sizes}
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]


def encode(body: PlanBody) -> bytes:
    """The file's bytes: of the oldest schema that can say it."""
    content: dict[str, Any] = {
        "schema_version": 1,
        "digest": digest_of(body),
        "buckets": [_row(bucket) for bucket in body.buckets],
    }
    if body[1:] != (None, None, None):
        content["schema_version"] = SCHEMA_VERSION
        content["fallback"] = _row(body.fallback)
        content["batch_sizes"] = body.batch_sizes
        content["certificate"] = _certificate_fields(body.certificate)
    return (json.dumps(content, indent=2) + "\n").encode()


def read(path: str | os.PathLike[str]) -> tuple[PlanBody, Any]:
    """What a plan's file says, each number checked, and the digest that it gives, which is not.

    Raises:
        PlanError: it is missing, no plan, or newer than this version.
    """
    where = f"ShapePlan.load: {os.fspath(path)}"
    content = _parsed(where, path)
    version = content.get("schema_version") if isinstance(content, dict) else None
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise PlanError(f"{where}: not a plan: expected a JSON object with a schema_version, got {shown(content)}.")
    if version > SCHEMA_VERSION:
        raise PlanError(
            f"{where}: schema_version is {version}, this fixshape reads up to {SCHEMA_VERSION}."
            " Update fixshape, or save the plan anew."
        )
    rows = content.get("buckets")
    if not isinstance(rows, list) or not rows:
        raise PlanError(f"{where}: buckets is {shown(rows)}, expected a list of [height, width, max_boxes].")
    buckets = tuple(_bucket(where, f"bucket {index}", row) for index, row in enumerate(rows))
    body = PlanBody(buckets, None, None, None)
    if version > 1:
        fallback = content.get("fallback")
        body = PlanBody(
            buckets,
            None if fallback is None else _bucket(where, "fallback", fallback),
            _batch_sizes(where, content.get("batch_sizes")),
            _certificate(where, content.get("certificate")),
        )
    return body, content.get("digest")


def check_digest(path: str | os.PathLike[str], digest: str, found: Any) -> None:
    """Raises :class:`PlanError` unless the digest that a file gives is that of its plan."""
    if found != digest:
        raise PlanError(
            f"ShapePlan.load: {os.fspath(path)}: digest is {shown(found)}, but the buckets give {digest!r}: the file was changed."
            f' Set "digest" to that value if the change was meant.'
        )


def _parsed(where: str, path: str | os.PathLike[str]) -> Any:
    try:
        return json.loads(read_limited(path, _MOST_BYTES))
    except FileNotFoundError:
        raise PlanError(f"{where}: there is no such file. Write one with ShapePlan.save.") from None
    except OSError as error:
        raise PlanError(f"{where}: the file cannot be read ({error.strerror}).") from None
    except (ValueError, RecursionError) as error:
        raise PlanError(f"{where}: not a plan: {error}. Write it anew with ShapePlan.save.") from None


def _bucket(where: str, name: str, row: Any) -> Bucket:
    whole = isinstance(row, list) and len(row) == 3 and all(type(number) is int and number >= 1 for number in row)
    if not whole or row[0] * row[1] > MOST_PIXELS or row[2] > MOST_BOXES:
        raise PlanError(f"{where}: {name} is {shown(row)}, expected [height, width, max_boxes], whole numbers of at least 1.")
    return Bucket(*row)


def _batch_sizes(where: str, sizes: Any) -> tuple[int, ...] | None:
    if sizes is None:
        return None
    if not isinstance(sizes, list) or not all(type(size) is int and 1 <= size <= _MOST_BATCH for size in sizes):
        raise PlanError(
            f"{where}: batch_sizes is {shown(sizes)}, expected a whole number of at least 1 for each bucket, or null."
        )
    return tuple(sizes)


def _certificate(where: str, fields: Any) -> Certificate | None:
    if fields is None:
        return None
    try:
        if any(type(value) not in (int, float) for value in fields.values()):
            raise TypeError
        return Certificate(**fields)
    except (AttributeError, TypeError, OverflowError, FixshapeError):
        raise PlanError(
            f"{where}: certificate is {shown(fields)}, expected an object of waste, lower_bound and buckets, or null."
        ) from None


def _certificate_fields(certificate: Certificate | None) -> dict[str, float] | None:
    if certificate is None:
        return None
    return {"waste": certificate.waste, "lower_bound": certificate.lower_bound, "buckets": certificate.buckets}


def _row(bucket: Bucket | None) -> list[int] | None:
    return None if bucket is None else [bucket.height, bucket.width, bucket.max_boxes]
