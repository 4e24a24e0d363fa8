"""Just enough of the protobuf wire format to read the records of TensorBoard and W&B, and their checksums."""

import struct
from collections.abc import Iterator

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


class WireError(Exception):
    """The bytes are no protobuf message."""


def fields(data: bytes) -> Iterator[tuple[int, int, int | bytes]]:
    """Yield (field number, wire type, value) of a message; fixed-width values are bytes.

    Raises:
        WireError: the bytes are no message, or are cut off.
    """
    position, end = 0, len(data)
    while position < end:
        tag, position = _varint(data, position)
        number, wire = tag >> 3, tag & 7
        if wire == VARINT:
            value, position = _varint(data, position)
            yield number, wire, value
            continue
        if wire == BYTES:
            size, position = _varint(data, position)
        elif wire in (FIXED64, FIXED32):
            size = 8 if wire == FIXED64 else 4
        else:
            raise WireError(f"wire type {wire}")
        if position + size > end:
            raise WireError("cut off")
        yield number, wire, data[position : position + size]
        position += size


def signed(value: int) -> int:
    """Return an int64 that was written as a varint."""
    return value - 2**64 if value >= 2**63 else value


def varints(data: bytes) -> list[int]:
    """Return a packed list of varints."""
    found = []
    position = 0
    while position < len(data):
        value, position = _varint(data, position)
        found.append(value)
    return found


def floats(data: bytes, code: str) -> tuple[float, ...]:
    """Return a packed list of numbers of the ``struct`` code.

    Raises:
        WireError: the bytes are no whole number of them.
    """
    size = struct.calcsize(code)
    if len(data) % size:
        raise WireError("cut off")
    return struct.unpack(f"<{len(data) // size}{code}", data)


def crc32c(data: bytes) -> int:
    """Return the Castagnoli checksum (RFC 3720), which the standard library does not have."""
    crc = 0xFFFFFFFF
    table = _TABLE
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def masked(crc: int) -> int:
    """Return the checksum as TFRecord and LevelDB store it."""
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def _varint(data: bytes, position: int) -> tuple[int, int]:
    result = shift = 0
    while True:
        if position >= len(data) or shift > 63:
            raise WireError("bad number")
        byte = data[position]
        position += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result & 0xFFFFFFFFFFFFFFFF, position
        shift += 7


def _make_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
        table.append(crc)
    return tuple(table)


_TABLE = _make_table()
