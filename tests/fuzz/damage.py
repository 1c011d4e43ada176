"""Ways in which bytes go wrong: bits that flip, blocks that are lost, values that are absurd."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

Damage = Callable[[random.Random, bytes], bytes]

ABSURD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 7, 10**30, -(10**30), 2**63, 10**400, 0.5, -0.0, 1e308, 1e-320,
    float("inf"), float("nan"), "", "x", "\0", "\ud800", "\udcff", "../..", "/", "a" * 5000,
    "\x1b[2J\n", [], {}, [[]], [None], {"": None}, {"pid": -1}, [1, "2", None], "/etc/passwd",
)  # fmt: skip
"""Values to put in the place of others; as JSON that Python writes: infinite numbers too."""


def nested(depth: int = 100_000) -> bytes:
    """More brackets than any parser follows."""
    return b"[" * depth


def of_bytes(rng: random.Random, raw: bytes) -> bytes:
    """Damage as a disk, a wire or a full file system does it."""
    return rng.choice(_DISK)(rng, raw)


def of_json(rng: random.Random, raw: bytes) -> bytes:
    """Damage that is still JSON, or nearly: another value, a key less, a key twice."""
    if rng.random() < 0.05:
        return rng.choice((nested(), b"", b"null", b"[]", b"{}", b"\xff\xfe", b'"x"', b"1e400"))
    try:
        plain = json.loads(raw)
    except ValueError:
        return of_bytes(rng, raw)
    places = list(_places(plain))
    if not places:
        return json.dumps(rng.choice(ABSURD)).encode()
    leaves = [place for place in places if not isinstance(place[0][place[1]], dict | list)]
    for _ in range(rng.choice((1, 1, 2, 3))):
        holder, key = rng.choice(rng.choice((places, leaves or places)))
        try:
            if rng.random() < 0.2:
                del holder[key]
            else:
                holder[key] = rng.choice(ABSURD)
        except (KeyError, IndexError):
            continue  # gone with an earlier one
    return json.dumps(plain).encode()


def of_lines(rng: random.Random, raw: bytes) -> bytes:
    """Damage to one line of many: as of JSON, or lines that are gone, doubled or swapped."""
    lines = raw.split(b"\n")
    at = rng.randrange(len(lines))
    match rng.randrange(6):
        case 0:
            del lines[at]
        case 1:
            lines.insert(rng.randrange(len(lines)), lines[at])
        case 2:
            lines.insert(at, rng.randbytes(rng.randrange(300)))
        case 3:
            other = rng.randrange(len(lines))
            lines[at], lines[other] = lines[other], lines[at]
        case _:
            start = lines[at].find(b"{")
            if start >= 0:
                lines[at] = lines[at][:start] + of_json(rng, lines[at][start:])
    return b"\n".join(lines)


def _places(plain: Any) -> Any:
    """Every place of a value in nested ones, as what holds it and its key there."""
    keys = plain.keys() if isinstance(plain, dict) else range(len(plain))
    for key in list(keys):
        yield plain, key
        if isinstance(plain[key], dict | list) and plain[key]:
            yield from _places(plain[key])


def _flip(rng: random.Random, raw: bytes) -> bytes:
    if not raw:
        return raw
    whole = bytearray(raw)
    at = rng.randrange(len(whole))
    whole[at] ^= 1 << rng.randrange(8)
    return bytes(whole)


def _flip_some(rng: random.Random, raw: bytes) -> bytes:
    for _ in range(rng.randrange(2, 9)):
        raw = _flip(rng, raw)
    return raw


def _cut(rng: random.Random, raw: bytes) -> bytes:
    return raw[: rng.randrange(len(raw) + 1)]


def _span(rng: random.Random, raw: bytes) -> tuple[int, int]:
    start = rng.randrange(len(raw) + 1)
    return start, min(len(raw), start + rng.choice((1, 4, 16, 512, 4096)))


def _zero(rng: random.Random, raw: bytes) -> bytes:
    start, stop = _span(rng, raw)
    return raw[:start] + b"\0" * (stop - start) + raw[stop:]


def _lose(rng: random.Random, raw: bytes) -> bytes:
    start, stop = _span(rng, raw)
    return raw[:start] + raw[stop:]


def _double(rng: random.Random, raw: bytes) -> bytes:
    start, stop = _span(rng, raw)
    return raw[:stop] + raw[start:]


def _insert(rng: random.Random, raw: bytes) -> bytes:
    start, stop = _span(rng, raw)
    return raw[:start] + rng.randbytes(stop - start) + raw[start:]


def _overwrite(rng: random.Random, raw: bytes) -> bytes:
    start, stop = _span(rng, raw)
    return raw[:start] + rng.randbytes(stop - start) + raw[stop:]


def _extend(rng: random.Random, raw: bytes) -> bytes:
    return raw + rng.choice((b"\0" * 4096, rng.randbytes(100), raw))


def _replace(rng: random.Random, raw: bytes) -> bytes:
    return rng.choice((b"", b"\0" * len(raw), rng.randbytes(len(raw)), b"\n", nested(), raw[::-1]))


_DISK: tuple[Damage, ...] = (
    _flip, _flip, _flip, _flip, _flip_some, _cut, _zero, _lose, _double, _insert, _overwrite,
    _extend, _replace,
)  # fmt: skip
