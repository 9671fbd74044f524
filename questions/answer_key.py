"""When two questions are the same question."""

import hashlib
import unicodedata
from typing import Any

import orjson
from askmesh.llm.v1.generation_pb2 import GenerationSpec
from google.protobuf.message import Message


def normalise(question_text: str) -> str:
    """The text that is asked: NFC, line ends as LF, blank ends stripped, and nothing more.

    Case, punctuation and inner white space can change what is meant, so they stay.
    """
    return unicodedata.normalize("NFC", question_text.replace("\r\n", "\n")).strip()


def answer_key(scope: str, request: GenerationSpec, identity: str) -> bytes:
    """SHA-256 of all that decides an answer: who may share it, what the model is sent, and which model answers.

    ``identity``: as ``models.identity`` writes it.
    """
    # JSON keeps the parts apart: ("a", "bc") and ("ab", "c") differ.
    return hashlib.sha256(orjson.dumps([scope, identity, _canonical(request)])).digest()


def _canonical(value: Any) -> Any:
    """Every field that is set, with its number, in the order of numbers, so that a field to come is never left out.

    Not protobuf's own serialisation, whose bytes may differ between two releases of it.
    """
    if isinstance(value, str | int | float):
        return value
    if isinstance(value, Message):
        return [(field.number, _canonical(content)) for field, content in value.ListFields()]
    if isinstance(value, bytes):
        return value.hex()
    if hasattr(value, "items"):  # a map field, which has no order
        return sorted((key, _canonical(content)) for key, content in value.items())
    return [_canonical(content) for content in value]
