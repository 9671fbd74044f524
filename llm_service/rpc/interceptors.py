"""Interceptors that refuse a call before its method sees it."""

import inspect
from abc import abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, TypeAlias

import grpc

Context = grpc.aio.ServicerContext[Any, Any]
Behaviour = Callable[[Any, Context], Any]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Refusal = Callable[[Any, Context], Awaitable[None] | None]
"""Takes the request and the context; returns what aborts the call, or None for a call that goes on."""

_BEHAVIOURS: Final = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")


class RefusingInterceptor(grpc.aio.ServerInterceptor):
    """Wraps the handler of each method once; the wrapped handler serves all later calls."""

    def __init__(self) -> None:
        self._handlers: dict[str, Handler] = {}

    @abstractmethod
    def guarded(self, method: str, handler: Handler) -> Handler:
        """What handles the calls of this method: the handler itself, or one that ``refusing`` made of it."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable["Handler | None"]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "Handler | None":
        """As grpc.aio calls it, once a call."""
        method = str(handler_call_details.method)
        if method in self._handlers:
            return self._handlers[method]
        handler = await continuation(handler_call_details)
        # Callers can make up names of methods without end: only methods that exist are remembered.
        if handler is None:
            return None
        self._handlers[method] = self.guarded(method, handler)
        return self._handlers[method]


def refusing(handler: Handler, refusal: Refusal, **changes: Any) -> Handler:
    """The handler, with these changes, behind the refusal: a call that it refuses never gets to the method."""
    kind = next(kind for kind in _BEHAVIOURS if getattr(handler, kind) is not None)
    replace: Any = handler._replace  # type: ignore[attr-defined] # a named tuple, which the stubs do not say
    made: Handler = replace(**{kind: _behind(refusal, getattr(handler, kind))}, **changes)
    return made


def _behind(refusal: Refusal, behaviour: Behaviour) -> Behaviour:
    # The refusal is a plain function: a call that goes on pays for no coroutine.
    if inspect.isasyncgenfunction(behaviour):

        async def stream(request: Any, context: Context) -> AsyncIterator[Any]:
            if (refused := refusal(request, context)) is not None:
                await refused
            async for response in behaviour(request, context):
                yield response

        return stream

    async def answer(request: Any, context: Context) -> Any:
        if (refused := refusal(request, context)) is not None:
            await refused
        return await behaviour(request, context)

    return answer
