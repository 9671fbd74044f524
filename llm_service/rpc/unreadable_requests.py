"""Requests whose bytes are no message of their type.

grpc.aio answers them with UNKNOWN and the name of an exception, and logs a stack trace for each. Everybody can connect
to health, and could fill the log.
"""

from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

from google.protobuf.message import DecodeError

from llm_service.errors import LlmError, Reason, Violation
from llm_service.rpc.interceptors import Context, Handler, RefusingInterceptor, refusing
from llm_service.rpc.statuses import abort


class UnreadableRequestInterceptor(RefusingInterceptor):
    """Refuses them with INVALID_ARGUMENT. Streams of requests, which only reflection takes, are left to gRPC."""

    def guarded(self, method: str, handler: Handler) -> Handler:  # noqa: ARG002 - it is the same for all methods
        """The handler, which gets no request that is not readable."""
        if handler.request_streaming or handler.request_deserializer is None:
            return handler
        return refusing(handler, _refusal, request_deserializer=_or_none(handler.request_deserializer))


def _or_none(read: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def read_or_none(content: bytes) -> Any:
        try:
            return read(content)
        except DecodeError:
            return None

    return read_or_none


def _refusal(request: Any, context: Context) -> Awaitable[None] | None:
    return _refuse(context) if request is None else None


async def _refuse(context: Context) -> None:
    what = Violation("request", "is no message of the type that this method takes")
    error = LlmError(Reason.INVALID_FIELD, f"{what.field} {what.description}", violations=[what])
    await abort(error, uuid4().hex, context, engine_started=False)
