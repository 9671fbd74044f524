"""Asks a model server again, before it generates anything, without the fields that it does not take."""

import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any, Final, Literal

import orjson

from llm_service.errors import LlmError, Reason
from llm_service.upstream.client import ModelServerClient
from llm_service.upstream.stream.completions import Piece

logger = logging.getLogger(__name__)

LimitField = Literal["auto", "max_tokens", "max_completion_tokens"]

# Without these fields the server would write another answer instead of continuing this one.
_CONTINUING: Final = frozenset(("continue_final_message", "add_generation_prompt"))


class Adaptation:
    """Adapts requests to one model server: leaves out or renames fields, by the settings and by what it has refused."""

    def __init__(self, *, stream_options: bool = True, limit_field: LimitField = "auto") -> None:
        """``stream_options``: whether it may be sent. ``limit_field``: the name of the token limit; auto: max_tokens,
        and max_completion_tokens where the server asks for it.
        """  # noqa: D205
        self._limit_field = limit_field
        self._left_out = frozenset[str]() if stream_options else frozenset(("stream_options",))
        if limit_field == "max_completion_tokens":
            self._left_out |= {"max_tokens"}

    async def complete(self, server: ModelServerClient, body: Mapping[str, Any]) -> AsyncGenerator[Piece, None]:
        """``ModelServerClient.complete`` for these fields; asks again without those that the server does not take.

        It remembers what the server then accepts. Raises LlmError: CANNOT_CONTINUE where the server does not take the
        fields by which an answer is continued.
        """
        left_out = self._left_out
        accepted = wrote = False
        while True:
            try:
                async with aclosing(server.complete(orjson.dumps(_without(body, left_out)))) as pieces:
                    first = await anext(pieces)  # empty: the server has accepted; a gateway may still refuse
                    if not accepted:
                        accepted = True
                        yield first
                    async for piece in pieces:
                        if not wrote and (piece.text or piece.finish_reason):
                            wrote = True
                            self._remember(left_out)
                        yield piece
            except LlmError as error:
                more = self._takeable(error, body, left_out)
                if wrote or not more:
                    raise
                left_out |= more
            else:
                return

    def _takeable(self, error: LlmError, body: Mapping[str, Any], left_out: frozenset[str]) -> frozenset[str]:
        if error.unsupported & _CONTINUING & body.keys():
            raise LlmError(Reason.CANNOT_CONTINUE, "the model server cannot continue an answer: unset answer_prefix")
        unsupported = error.unsupported - left_out
        if self._limit_field != "auto":
            unsupported -= {"max_tokens"}
        sent = body.keys() | (body.get("stream_options") or {}).keys()
        return frozenset(unsupported & sent)

    def _remember(self, left_out: frozenset[str]) -> None:
        if new := left_out - self._left_out:
            logger.warning("the model server does not take %s: it is asked without", ", ".join(sorted(new)))
            self._left_out |= new


def _without(body: Mapping[str, Any], left_out: frozenset[str]) -> dict[str, Any]:
    fields = {name: value for name, value in body.items() if name not in left_out}
    if "max_tokens" in left_out and "max_tokens" in body:
        fields["max_completion_tokens"] = body["max_tokens"]
    if "stream_options" in fields:
        fields["stream_options"] = {name: on for name, on in fields["stream_options"].items() if name not in left_out}
    return fields
