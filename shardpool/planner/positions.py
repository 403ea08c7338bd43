"""What a tree says, wherever its words stood in the text: its bytes without positions.

A second set of message classes, of the parser's own definitions but for the fields that hold positions, reads the
bytes of a tree; what it does not know are the positions, and it forgets them. All of that runs in protobuf's C code.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError
from postgast import pg_query_pb2 as pb

from shardpool.planner.depth import deep_trees

_POSITIONS = frozenset(
    [
        "location",
        "stmt_location",
        "stmt_len",
        "rexpr_list_start",
        "rexpr_list_end",
        "list_start",
        "list_end",
        "version",
    ]
)
#: A message of so few bytes has less than 64 levels, for each takes two at least.
_SHALLOW = 128
_FILE = descriptor_pb2.FileDescriptorProto


@cache
def _definitions() -> Any:
    file = _FILE()
    pb.DESCRIPTOR.CopyToProto(file)
    for message in file.message_type:
        kept = [
            field
            for field in message.field
            if field.name not in _POSITIONS or field.type == descriptor_pb2.FieldDescriptorProto.TYPE_MESSAGE
        ]
        del message.field[:]
        message.field.extend(kept)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return pool


@cache
def _reader(name: str) -> Callable[[bytes], Any]:
    found: Any = message_factory.GetMessageClass(_definitions().FindMessageTypeByName(name))
    return found.FromString  # type: ignore[no-any-return]


def same(left: Any, right: Any) -> bool:
    """Whether two trees say the same, wherever they stood in the text."""
    return type(left) is type(right) and (_stripped(left) == _stripped(right) or _cleared(left) == _cleared(right))


def meaning(message: Any) -> bytes:
    """Return bytes that are equal for trees of one type that are the `same`."""
    return _stripped(message) if message.ByteSize() < _SHALLOW else _cleared(message)


def _stripped(message: Any) -> bytes:
    """Positions more than 64 levels below stay: so far down protobuf does not forget what it does not know."""
    read = _reader(message.DESCRIPTOR.full_name)
    data = message.SerializeToString()
    try:
        copy = read(data)
    except DecodeError:
        with deep_trees():
            copy = read(data)
    copy.DiscardUnknownFields()
    return bytes(copy.SerializeToString(deterministic=True))


def _cleared(message: Any) -> bytes:
    """At any depth, and three times as slow."""
    copy = type(message)()
    copy.CopyFrom(message)
    stack = [copy]
    while stack:
        node = stack.pop()
        for field, value in node.ListFields():
            if field.message_type is not None:
                stack += value if field.is_repeated else (value,)
            elif field.name in _POSITIONS:
                node.ClearField(field.name)
    return bytes(copy.SerializeToString(deterministic=True))
