"""What a program calls outside itself, read from its bytes: the targets of its custom calls.

A program is a portable artifact of StableHLO: MLIR bytecode, in which the names of operations and
of targets stand as they are. As text, which compilers take too, they can be written in many ways.
runtime/native/src/bytecode.cc reads the same.
"""

from __future__ import annotations

from collections.abc import Iterator

_MAGIC = b"ML\xefR"
_VERSION = 6
"""Of the bytecode; that of every StableHLO since 1.0."""
_STRINGS, _DIALECTS, _ATTRIBUTES, _OFFSETS, _PROPERTIES = 0, 1, 2, 3, 8
_ALIGNED = 0x80
_DIALECT_NAMES = frozenset({"builtin", "sdy", "vhlo"})
_WAITING = ("infeed_", "outfeed_", "recv_", "send_")
"""Operations that wait for a host that serves them: none of ours does."""
_CALL = "custom_call"
_CALL_V1 = f"vhlo.{_CALL}_v1"
_TARGET = "call_target_name"
_TARGET_PLACE = 2  # among the properties of a custom call, which have no names
_TEXT = 14  # code of vhlo's string attribute


def calls_of(code: bytes) -> set[str]:
    """Targets of the custom calls of a program, and operations that reach outside in other ways.

    An operation that is more than its name is found even if nothing uses it: what is here is at
    least what the program can call.

    Raises ValueError, in a few words, for what is no bytecode of a portable program.
    """
    try:
        return _Bytecode(code).calls()
    except IndexError as error:
        raise ValueError("damaged bytecode") from error


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def __bool__(self) -> bool:
        return self.at < len(self.data)

    def take(self, count: int) -> bytes:
        if count > len(self.data) - self.at:
            raise IndexError(count)
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self) -> int:
        """Little endian; the zeros at the end of the first byte say how many bytes follow."""
        first = self.data[self.at]
        more = 8 if first == 0 else (first & -first).bit_length() - 1
        value = int.from_bytes(self.take(1 + more), "little")
        return value >> 8 if more == 8 else value >> (more + 1)

    def section(self) -> tuple[int, bytes]:
        kind, length = self.take(1)[0], self.number()
        if kind & _ALIGNED:
            raise ValueError("bytecode with an aligned section")
        return kind, self.take(length)


class _Bytecode:
    def __init__(self, code: bytes) -> None:
        if not code.startswith(_MAGIC):
            raise ValueError("no MLIR bytecode")
        reader = _Reader(code)
        reader.take(len(_MAGIC))
        if (version := reader.number()) != _VERSION:
            raise ValueError(f"MLIR bytecode of version {version}")
        while reader.take(1) != b"\0":  # who wrote it
            pass
        self._sections: dict[int, bytes] = {}
        while reader:
            kind, data = reader.section()
            if kind in self._sections:
                raise ValueError("bytecode with a section twice")
            self._sections[kind] = data
        self._texts = list(self._read_texts())

    def calls(self) -> set[str]:
        found = set()
        dialects, operations = self._read_operations()
        for name in dialects:
            if name not in _DIALECT_NAMES:
                found.add(name)
        calling = False
        for name in operations:
            if name == _CALL_V1:
                calling = True
            elif _CALL in name or name.removeprefix("vhlo.").startswith(_WAITING):
                found.add(name)
        if calling:
            found |= set(self._read_targets(dialects)) or {"a custom call"}
        return found

    def _section(self, kind: int) -> _Reader:
        """A section; where there is none, one that begins with the number 0."""
        return _Reader(self._sections.get(kind, b"\1"))

    def _read_texts(self) -> Iterator[str]:
        reader = self._section(_STRINGS)
        sizes = [reader.number() for _ in range(reader.number())]  # the last text's first
        for size in reversed(sizes):
            yield reader.take(size)[:-1].decode("latin-1")  # names are ASCII, others not ours

    def _read_operations(self) -> tuple[list[str], list[str]]:
        """The names of the dialects, and those of the operations."""
        reader, dialects, operations = self._section(_DIALECTS), [], []
        for _ in range(reader.number()):
            name = reader.number()
            dialects.append(self._texts[name >> 1])
            if name & 1:
                reader.section()  # the version of the dialect
        reader.number()  # of operations
        while reader:
            dialect = dialects[reader.number()]
            for _ in range(reader.number()):
                operations.append(f"{dialect}.{self._texts[reader.number() >> 1]}")
        return dialects, operations

    def _read_targets(self, dialects: list[str]) -> Iterator[str]:
        """What stands where a custom call has its target, whichever operation it belongs to."""
        if any(_TARGET in text for text in self._texts):
            yield _TARGET  # as an attribute, which would count for more than the property
        attributes = self._read_attributes(dialects)
        reader = self._section(_PROPERTIES)
        for _ in range(reader.number()):
            properties = _Reader(reader.take(reader.number()))
            index = 0
            while properties and index < _TARGET_PLACE:
                properties.number()
                index += 1
            if not properties:
                continue
            dialect, data = attributes[properties.number()]
            attribute = _Reader(data)
            if dialect != "vhlo":
                yield "something without a name"
            elif attribute.number() == _TEXT:
                yield self._texts[attribute.number()]

    def _read_attributes(self, dialects: list[str]) -> list[tuple[str, bytes]]:
        """The dialect of each attribute and what it is encoded in, which must not be text."""
        places, data, attributes = self._section(_OFFSETS), self._section(_ATTRIBUTES), []
        count = places.number()
        places.number()  # of types, which come after the attributes
        while len(attributes) < count:
            dialect = dialects[places.number()]
            for _ in range(places.number()):
                size = places.number()
                if not size & 1 and len(attributes) < count:
                    raise ValueError("bytecode with an attribute as text")
                attributes.append((dialect, data.take(size >> 1)))
        return attributes
