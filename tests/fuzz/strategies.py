"""What callers of llm_service can send, from the descriptors of the contract."""

from typing import Any

from askmesh.llm.v1 import generation_pb2
from google.protobuf import message_factory
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from hypothesis import strategies as st

_INT32, _INT64 = 2**31, 2**63
# Long enough for every limit on a field to be passed, but for the million characters of a text.
_LONG = 300


def _integers(least: int, most: int) -> st.SearchStrategy[int]:
    return st.sampled_from([least, 0, 1, most]) | st.integers(least, most)


_SCALARS: dict[int, st.SearchStrategy[Any]] = {
    FieldDescriptor.TYPE_BOOL: st.booleans(),
    FieldDescriptor.TYPE_DOUBLE: st.floats(),
    FieldDescriptor.TYPE_INT32: _integers(-_INT32, _INT32 - 1),
    FieldDescriptor.TYPE_INT64: _integers(-_INT64, _INT64 - 1),
    FieldDescriptor.TYPE_UINT32: _integers(0, 2 * _INT32 - 1),
    FieldDescriptor.TYPE_STRING: st.text(max_size=20)
    | st.builds(str.__mul__, st.text(min_size=1, max_size=1), st.integers(1, _LONG)),
    FieldDescriptor.TYPE_ENUM: st.integers(-1, 5) | _integers(-_INT32, _INT32 - 1),
}


def messages(descriptor: Any) -> st.SearchStrategy[Message]:
    """Any message of this type: each field unset, usual, or extreme."""
    kind = message_factory.GetMessageClass(descriptor)
    fields = {field.name: _values(field) for field in descriptor.fields}
    return st.fixed_dictionaries({}, optional=fields).map(lambda values: kind(**values))


def _values(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    one = messages(field.message_type) if field.message_type else _SCALARS[field.type]
    return st.lists(one, max_size=4) if field.is_repeated else one


def valid_specs() -> st.SearchStrategy[generation_pb2.GenerationSpec]:
    """Whatever the contract allows that does not depend on the model server."""
    # The fake takes what stands in double brackets for directives.
    words = st.text(st.characters(codec="utf-8", exclude_characters="[]"), min_size=1, max_size=60)
    before = st.builds(
        generation_pb2.Message,
        role=st.sampled_from([generation_pb2.ROLE_SYSTEM, generation_pb2.ROLE_USER, generation_pb2.ROLE_ASSISTANT]),
        content=words,
    )
    last = st.builds(generation_pb2.Message, role=st.just(generation_pb2.ROLE_USER), content=words)
    penalty = st.floats(-2, 2)
    sampling: dict[str, st.SearchStrategy[Any]] = {
        "temperature": st.floats(0, 2),
        "top_p": st.floats(0, 1, exclude_min=True),
        "presence_penalty": penalty,
        "frequency_penalty": penalty,
        "seed": _integers(-_INT64, _INT64 - 1),
    }
    optional: dict[str, st.SearchStrategy[Any]] = {
        "request_id": st.from_regex(r"[A-Za-z0-9._:-]{1,128}", fullmatch=True),
        "sampling": st.fixed_dictionaries({}, optional=sampling).map(lambda given: generation_pb2.Sampling(**given)),
        "stop": st.lists(st.text(min_size=1, max_size=256), max_size=16),
        "max_output_tokens": st.integers(1, 3_000),
        "answer_prefix": st.text(max_size=60).map(str.rstrip),
    }
    required = {"messages": st.tuples(st.lists(before, max_size=5), last).map(lambda parts: [*parts[0], parts[1]])}
    return st.fixed_dictionaries(required, optional=optional).map(_spec)


def nearly_valid_specs() -> st.SearchStrategy[generation_pb2.GenerationSpec]:
    """Valid ones but for one field, which may be anything."""

    def with_field(field: FieldDescriptor) -> st.SearchStrategy[generation_pb2.GenerationSpec]:
        def put(spec: generation_pb2.GenerationSpec, value: Any) -> generation_pb2.GenerationSpec:
            spec.ClearField(field.name)  # type: ignore[arg-type] # which lists the names
            spec.MergeFrom(_spec({field.name: value}))
            return spec

        return st.builds(put, valid_specs(), _values(field))

    return st.sampled_from(list(generation_pb2.GenerationSpec.DESCRIPTOR.fields)).flatmap(with_field)


def _spec(fields: dict[str, Any]) -> generation_pb2.GenerationSpec:
    return generation_pb2.GenerationSpec(**fields)


def encodings(descriptor: Any) -> st.SearchStrategy[bytes]:
    """Bytes that are no message, nearly one, or one with fields that nobody knows."""
    encoded = messages(descriptor).map(lambda message: message.SerializeToString())
    unknown = st.builds(_field, st.integers(20, 2**29 - 1), st.binary(max_size=_LONG))
    return st.one_of(
        st.binary(max_size=_LONG),
        st.builds(_cut, encoded, st.floats(0, 1)),
        st.builds(_flip, encoded, st.integers(0, 10_000), st.integers(1, 255)),
        st.builds(bytes.__add__, encoded, unknown),
        st.builds(_nested, st.integers(1, 500)),
        # A text that is not UTF-8, in spec.model.
        st.binary(max_size=20).map(lambda text: _field(1, _field(2, b"\xff" + text))),
    )


def metadata() -> st.SearchStrategy[list[tuple[str, str | bytes]]]:
    """Headers that gRPC lets a client send."""
    value = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=_LONG)
    name = st.from_regex(r"x-[a-z0-9_.-]{1,20}", fullmatch=True).filter(lambda name: not name.endswith("-bin"))
    known = st.sampled_from(["authorization", "traceparent", "grpc-previous-rpc-attempts", "x-request-id"])
    binary = st.tuples(name.map(lambda name: f"{name}-bin"), st.binary(max_size=_LONG))
    return st.lists(st.tuples(name | known, value) | binary, max_size=8)


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*encoded, number])


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _nested(depth: int) -> bytes:
    encoded = b""
    for _ in range(depth):
        encoded = _field(1, encoded)
    return encoded


def _cut(encoded: bytes, at: float) -> bytes:
    return encoded[: int(len(encoded) * at)]


def _flip(encoded: bytes, at: int, bits: int) -> bytes:
    if not encoded:
        return bytes([bits])
    at %= len(encoded)
    return encoded[:at] + bytes([encoded[at] ^ bits]) + encoded[at + 1 :]
