"""What the comments of the contract say. The generated modules do not hold them, so they are read from the protos."""

import re
from pathlib import Path

from askmesh.llm.v1 import errors_pb2

PROTOS = Path(__file__).parents[2] / "protos"
REASONS = {name.removeprefix("ERROR_REASON_") for name in errors_pb2.ErrorReason.DESCRIPTOR.values_by_name} - {
    "UNSPECIFIED"
}


def rpc_comments() -> dict[str, str]:
    """The comment of each RPC, as one line."""
    source = (PROTOS / "askmesh/llm/v1/generation_service.proto").read_text(encoding="utf-8")
    found = re.findall(r"((?:^ *//.*\n)+)^ *rpc (\w+)\(", source, re.MULTILINE)
    return {
        name: " ".join(line.strip().removeprefix("//").strip() for line in comment.splitlines())
        for comment, name in found
    }


def capitals(comment: str) -> set[str]:
    """The names in capitals: statuses and reasons."""
    return set(re.findall(r"\b[A-Z]{2,}(?:_[A-Z]+)*\b", comment))


def reasons_by_status() -> dict[str, set[str]]:
    """The list in the comment of Generate: each status with its reasons."""
    items = re.findall(r"- ([A-Z_]+): (.*?)(?= - |$)", rpc_comments()["Generate"])
    return {status: capitals(text) & REASONS for status, text in items}
