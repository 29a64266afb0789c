"""Records read from the pages of an SQLite file without SQLite, which stops at the first page that is wrong.

Each page is read by itself, so damage costs what is on the damaged pages and nothing else: neither the
first page nor the inner pages of a tree are needed. A page in the write-ahead log is newer than the one in
the file, which may be whole where that one is not. Pages that are free hold old records, and records that
are damaged look like records: the reader must know its own.

The format: https://www.sqlite.org/fileformat2.html.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from struct import unpack, unpack_from
from typing import Any

PAGE = 4096
LARGEST_LOG = 16 << 20  # bytes worth checking at a start: a second
_FRAME = 24 + PAGE
_LEAF_OF_TABLE, _LEAF_OF_INDEX, _INNER_OF_INDEX = 0x0D, 0x0A, 0x02
_WHOLE = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}  # serial type → bytes of a whole number

Found = tuple[int | None, tuple[Any, ...]]
"""The rowid, where there is one, and the values."""


def records(path: Path) -> Iterator[Found]:
    """Every record of the tables and indexes in a file and in the write-ahead log beside it, newest last."""
    pages = _Pages(path)
    try:
        for number in range(2, pages.number + 1):  # the first holds the schema
            yield from _records(pages.stored(number), pages)
        for number, page in pages.logged:
            if number > 1:
                yield from _records(page, pages)
    finally:
        pages.close()


def is_log_whole(wal: Path) -> bool:
    """Say whether every page that was committed to a write-ahead log is as it was written.

    SQLite takes a log as far as it is whole, says nothing of the rest and writes over it.
    """
    data = _read(wal)
    frames = _committed(data)
    if not frames or len(data) > LARGEST_LOG:
        return True
    if not _is_header(data[:32]):
        return False
    order = ">" if data[3] & 1 else "<"
    sums = unpack(">II", data[24:32])
    for at in range(32, 32 + len(frames) * _FRAME, _FRAME):
        sums = _checksum(data[at : at + 8] + data[at + 24 : at + _FRAME], sums, order)
        if sums != unpack_from(">II", data, at + 16):
            return False
    return True


def _read(wal: Path) -> bytes:
    try:
        return wal.read_bytes()
    except OSError:
        return b""


def _committed(data: bytes) -> list[tuple[int, bytes]]:
    """The pages in a log up to the last commit, by what the frames say about themselves."""
    salt = data[16:24] if _is_header(data[:32]) else data[40:48]
    found: list[tuple[int, bytes]] = []
    committed = 0
    for at in range(32, len(data) - _FRAME + 1, _FRAME):
        number, size = unpack_from(">II", data, at)
        if data[at + 8 : at + 16] != salt:
            break
        found.append((number, data[at + 24 : at + _FRAME]))
        if size:
            committed = len(found)
    return found[:committed]


def _is_header(header: bytes) -> bool:
    if len(header) < 32 or header[:4] not in {b"\x37\x7f\x06\x82", b"\x37\x7f\x06\x83"}:
        return False
    order = ">" if header[3] & 1 else "<"
    return _checksum(header[:24], (0, 0), order) == unpack(">II", header[24:])


def _checksum(data: bytes, sums: tuple[int, ...], order: str) -> tuple[int, int]:
    first, second = sums
    words = iter(unpack(f"{order}{len(data) // 4}I", data))
    for even, odd in zip(words, words, strict=True):
        first = first + even + second & 0xFFFFFFFF
        second = second + odd + first & 0xFFFFFFFF
    return first, second


class _Pages:
    """The file, and the pages of its log in the order of writing."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.logged = _committed(_read(path.with_name(path.name + "-wal")))
        self._newest = dict(self.logged)
        self.number = -(-os.fstat(self._file).st_size // PAGE)

    def newest(self, number: int) -> bytes:
        return self._newest.get(number) or self.stored(number)

    def stored(self, number: int) -> bytes:
        try:
            page = os.pread(self._file, PAGE, (number - 1) * PAGE)
        except OSError:  # a sector that cannot be read
            page = b""
        return page.ljust(PAGE, b"\0")

    def close(self) -> None:
        os.close(self._file)


def _records(page: bytes, pages: _Pages) -> Iterator[Found]:
    kind = page[0]
    if kind in {_LEAF_OF_TABLE, _LEAF_OF_INDEX, _INNER_OF_INDEX}:
        yield from _cells(page, kind, pages)
    elif any(page):  # perhaps only this byte is wrong
        yield from _cells(page, _LEAF_OF_TABLE, pages)
        yield from _cells(page, _LEAF_OF_INDEX, pages)


def _cells(page: bytes, kind: int, pages: _Pages) -> Iterator[Found]:
    place, lowest = (12 if kind == _INNER_OF_INDEX else 8), PAGE
    while place + 2 <= lowest:
        (cell,) = unpack_from(">H", page, place)
        place += 2
        if not place <= cell < PAGE:
            continue  # one pointer is wrong; the next may be right
        lowest = min(lowest, cell)
        with contextlib.suppress(ValueError, IndexError):
            yield _record(page, cell + 4 * (kind == _INNER_OF_INDEX), kind, pages)


def _record(page: bytes, at: int, kind: int, pages: _Pages) -> Found:
    size, at = _varint(page, at)
    rowid = None
    most = (PAGE - 12) * 64 // 255 - 23
    if kind == _LEAF_OF_TABLE:
        rowid, at = _varint(page, at)
        most = PAGE - 35
    if size <= most:
        return rowid, _values(page[at : at + size], size)
    least = (PAGE - 12) * 32 // 255 - 23
    local = least + (size - least) % (PAGE - 4)
    local = local if local <= most else least
    payload = bytearray(page[at : at + local])
    following = int.from_bytes(page[at + local : at + local + 4])
    while len(payload) < size and following > 1:
        more = pages.newest(following)
        payload += more[4 : 4 + size - len(payload)]
        following = int.from_bytes(more[:4])
    return rowid, _values(bytes(payload), size)


def _values(payload: bytes, size: int) -> tuple[Any, ...]:
    header, at = _varint(payload, 0)
    if len(payload) != size or not at <= header <= size:
        raise ValueError("a record cut short")
    found: list[Any] = []
    body = header
    while at < header:
        kind, at = _varint(payload, at)
        length = _WHOLE.get(kind, 8 if kind == 7 else max(0, kind - 12) // 2)
        raw = payload[body : body + length]
        if len(raw) != length or kind in {10, 11}:
            raise ValueError("a value cut short")
        body += length
        if kind in _WHOLE:
            found.append(int.from_bytes(raw, signed=True))
        elif kind == 7:
            found.append(unpack(">d", raw)[0])
        elif kind < 12:
            found.append({0: None, 8: 0, 9: 1}[kind])
        else:
            found.append(raw.decode() if kind % 2 else raw)
    return tuple(found)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for place in range(9):
        byte = data[at + place]
        if place == 8:
            value = value << 8 | byte
            break
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            break
    return value, at + place + 1
