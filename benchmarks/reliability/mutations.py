"""Damage to real files, drawn from a seed: what a torn disk does, and what somebody does who knows the format."""

from __future__ import annotations

import random
import re
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

HEADER_BYTES = 512
"""Half of all damage is done here: it is where lengths stand."""
HUGE = (0xFFFFFFFF, 0x7FFFFFFF, 0x80000000, 0x7FFFFFFFFFFFFFFF, 0xFFFFFFFFFFFFFFFF, 0x10000000, 0xFFFF, 0x7FFF, 0)
_NUMBER = re.compile(rb"-?\d+(\.\d+)?")
_HUGE_TEXT = (b"999999999999", b"-1", b"1e308", b"NaN", b"0", b"18446744073709551616", b"0x7fffffff", b"9" * 5000)
_TOKENS = (
    b"[" * 3000,
    b'{"a":' * 3000,
    b"!!python/object/apply:os.system ['true']\n",
    b"a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n",
    b"\x00",
    b"\xff\xfe",
    b"null",
    b"[]",
    b"{}",
    b'""',
    b"../../etc/passwd",
    b"\n",
)


@dataclass(frozen=True)
class Seed:
    """A real file.

    Attributes:
        name: what it is called, with the ending that says its format.
        content: its bytes.
    """

    name: str
    content: bytes

    @property
    def ending(self) -> str:
        """From the first dot on."""
        return self.name[self.name.find(".") :]


@dataclass(frozen=True)
class Mutant:
    """A damaged file, and what was done to it."""

    name: str
    content: bytes
    damage: str


Damage = Callable[[bytes, random.Random], bytes]


def mutant(seeds: Sequence[Seed], key: str) -> Mutant:
    """The file that belongs to ``key``: the same on every machine."""
    rng = random.Random(key)
    seed = rng.choice(seeds)
    draw = rng.random()
    if draw < 0.01:
        return Mutant(seed.name, b"", "empty")
    if draw < 0.05:
        other = rng.choice(seeds)
        return Mutant("mutant" + other.ending, seed.content, "wrong ending")
    if draw < 0.13:
        return Mutant(seed.name, _splice(seed.content, rng.choice(seeds).content, rng), "splice")
    textual = _is_text(seed.content)
    damage = rng.choice(_OF_TEXT if textual else _OF_BYTES)
    content = seed.content
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        content = damage(content, rng)
    if rng.random() < 0.5:
        content = repaired(content)
    return Mutant(seed.name, content, damage.__name__.strip("_").replace("_", " "))


def repaired(content: bytes) -> bytes:
    """With the checksums of PNG and tar made right again, so that the damage is met behind them."""
    if content.startswith(b"\x89PNG\r\n\x1a\n"):
        return _repaired_png(content)
    if content[257:262] == b"ustar":
        return _repaired_tar(content)
    return content


def _repaired_png(content: bytes) -> bytes:
    found, at = bytearray(content), 8
    while at + 12 <= len(found):
        (size,) = struct.unpack_from(">I", found, at)
        if at + 12 + size > len(found):
            break
        struct.pack_into(">I", found, at + 8 + size, zlib.crc32(found[at + 4 : at + 8 + size]))
        at += 12 + size
    return bytes(found)


def _repaired_tar(content: bytes) -> bytes:
    found = bytearray(content)
    for at in range(0, len(found) - 511, 512):
        if found[at + 257 : at + 262] == b"ustar":
            found[at + 148 : at + 156] = b" " * 8
            found[at + 148 : at + 156] = b"%06o\0 " % sum(found[at : at + 512])
    return bytes(found)


def _is_text(content: bytes) -> bool:
    return b"\x00" not in content[:4096]


def _place(content: bytes, rng: random.Random) -> int:
    end = min(len(content), HEADER_BYTES) if rng.random() < 0.5 else len(content)
    return rng.randrange(max(1, end))


def _splice(first: bytes, second: bytes, rng: random.Random) -> bytes:
    return first[: rng.randrange(len(first) + 1)] + second[rng.randrange(len(second) + 1) :]


def _bit_flips(content: bytes, rng: random.Random) -> bytes:
    found = bytearray(content)
    for _ in range(rng.choice((1, 2, 4, 16, 64)) if found else 0):
        found[_place(content, rng)] ^= 1 << rng.randrange(8)
    return bytes(found)


def _truncation(content: bytes, rng: random.Random) -> bytes:
    return content[: _place(content, rng)]


def _swapped_blocks(content: bytes, rng: random.Random) -> bytes:
    size = rng.choice((4, 16, 64, 512))
    a, b = sorted((_place(content, rng), _place(content, rng)))
    if b - a < size:
        return content
    return content[:a] + content[b : b + size] + content[a + size : b] + content[a : a + size] + content[b + size :]


def _zero_run(content: bytes, rng: random.Random) -> bytes:
    at, size = _place(content, rng), rng.choice((4, 16, 64, 1024))
    return content[:at] + bytes(min(size, len(content) - at)) + content[at + size :]


def _noise_after_the_magic(content: bytes, rng: random.Random) -> bytes:
    kept = rng.choice((4, 8, 12, 16, 32, 64, 128))
    return content[:kept] + rng.randbytes(min(len(content) - kept, 65536) if len(content) > kept else 0)


def _huge_length(content: bytes, rng: random.Random) -> bytes:
    size, order, at = rng.choice((2, 4, 4, 4, 8)), rng.choice(("<", ">")), _place(content, rng)
    if rng.random() < 0.7:
        at -= at % min(size, 4)
    value = rng.choice(HUGE) & (2 ** (8 * size) - 1)
    return content[:at] + struct.pack(order + {2: "H", 4: "I", 8: "Q"}[size], value) + content[at + size :]


def _removed_block(content: bytes, rng: random.Random) -> bytes:
    at = _place(content, rng)
    return content[:at] + content[at + rng.choice((1, 4, 16, 64, 512)) :]


def _repeated_block(content: bytes, rng: random.Random) -> bytes:
    at = _place(content, rng)
    return content[:at] + content[at : at + rng.choice((1, 4, 64, 512))] * rng.choice((2, 8, 64)) + content[at:]


def _huge_number(content: bytes, rng: random.Random) -> bytes:
    """A decimal number of a header or of a text, exchanged."""
    numbers = list(_NUMBER.finditer(content[:65536]))
    if not numbers:
        return _bit_flips(content, rng)
    found = rng.choice(numbers)
    return content[: found.start()] + rng.choice(_HUGE_TEXT) + content[found.end() :]


def _inserted_token(content: bytes, rng: random.Random) -> bytes:
    at = _place(content, rng)
    return content[:at] + rng.choice(_TOKENS) + content[at:]


def _exchanged_value(content: bytes, rng: random.Random) -> bytes:
    """What follows a colon or a comma becomes a token."""
    places = [match.end() for match in re.finditer(rb"[:,]\s*", content)]
    if not places:
        return _inserted_token(content, rng)
    at = rng.choice(places)
    end = re.compile(rb"[,\n}\]]").search(content, at)
    return content[:at] + rng.choice((*_TOKENS, *_HUGE_TEXT)) + content[end.start() if end else len(content) :]


_OF_BYTES: tuple[Damage, ...] = (
    _bit_flips,
    _bit_flips,
    _truncation,
    _swapped_blocks,
    _zero_run,
    _noise_after_the_magic,
    _huge_length,
    _huge_length,
    _huge_length,
    _removed_block,
    _repeated_block,
    _huge_number,
)
_OF_TEXT: tuple[Damage, ...] = (
    _bit_flips,
    _truncation,
    _removed_block,
    _repeated_block,
    _huge_number,
    _inserted_token,
    _exchanged_value,
    _exchanged_value,
)
