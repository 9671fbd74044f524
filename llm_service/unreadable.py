"""Requests whose bytes are no message of their type.

grpc.aio answers them with UNKNOWN and the name of an exception, and logs a stack trace for each: whoever can connect,
as everybody can to health, could fill the log.
"""

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, TypeAlias
from uuid import uuid4

import grpc
from google.protobuf.message import DecodeError

from llm_service.errors import LlmError, Reason, Violation, code_of, to_status

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"
Context = grpc.aio.ServicerContext[Any, Any]
Behaviour = Callable[[Any, Context], Any]

_STATUS_KEY: Final = "grpc-status-details-bin"


class UnreadableRequests(grpc.aio.ServerInterceptor):
    """Refuses them with INVALID_ARGUMENT. Streams of requests, which only reflection takes, are left to gRPC."""

    def __init__(self) -> None:
        self._handlers: dict[str, Handler] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        """As grpc.aio calls it, once a call."""
        method = str(handler_call_details.method)
        if method in self._handlers:
            return self._handlers[method]
        handler = await continuation(handler_call_details)
        if handler is None or handler.request_streaming or handler.request_deserializer is None:
            return handler
        kind = "unary_stream" if handler.response_streaming else "unary_unary"
        replace: Any = handler._replace  # type: ignore[attr-defined] # a named tuple, which the stubs do not say
        self._handlers[method] = replace(
            request_deserializer=_or_none(handler.request_deserializer), **{kind: _refusing(getattr(handler, kind))}
        )
        return self._handlers[method]


def _or_none(read: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def read_or_none(content: bytes) -> Any:
        try:
            return read(content)
        except DecodeError:
            return None

    return read_or_none


def _refusing(behaviour: Behaviour) -> Behaviour:
    if inspect.isasyncgenfunction(behaviour):

        async def stream(request: Any, context: Context) -> AsyncIterator[Any]:
            if request is None:
                await _refuse(context)
            async for response in behaviour(request, context):
                yield response

        return stream

    async def answer(request: Any, context: Context) -> Any:
        if request is None:
            await _refuse(context)
        return await behaviour(request, context)

    return answer


async def _refuse(context: Context) -> None:
    what = Violation("request", "is no message of the type that this method takes")
    error = LlmError(Reason.INVALID_FIELD, f"{what.field} {what.description}", violations=[what])
    status = to_status(error, uuid4().hex, engine_started=False)
    await context.abort(code_of(error.reason), status.message, ((_STATUS_KEY, status.SerializeToString()),))
