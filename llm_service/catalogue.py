"""Which models the model server serves, which of them is the default, and what each can do."""

import asyncio
import itertools
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from llm_service.errors import LlmError, Reason
from llm_service.model_server import ModelServer

T = TypeVar("T")

# A list this old is asked for again, so that a model server that was replaced in silence is noticed.
_FRESH_SECONDS: Final = 60.0
# An unknown name asks for the list again, but a flood of them does so once a second.
_SETTLED_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Dialect:
    """What one kind of model server understands beyond OpenAI's API."""

    stream_fields: Mapping[str, Any]
    """Added to every request: usage with each chunk, where the server can."""
    continue_fields: Mapping[str, Any] = field(default_factory=dict)
    """Added to a request whose last message is the beginning of the answer."""
    render_path: str = ""
    """Where the server shows a prompt without generating, beside /v1. Empty: nowhere, so it cannot be asked."""
    render_result: str = ""
    """The field of the reply that holds the prompt, as text or as tokens."""


_CONTINUE_FIELDS: Final = {"continue_final_message": True, "add_generation_prompt": False}
# Chosen by the ``owned_by`` of /models. A field that a server does not know is not sent: OpenAI refuses such requests.
_DIALECTS: Final[Mapping[str, Dialect]] = {
    "vllm": Dialect(
        stream_fields={"stream_options": {"include_usage": True, "continuous_usage_stats": True}},
        continue_fields=_CONTINUE_FIELDS,
        render_path="tokenize",
        render_result="tokens",
    ),
    # llama.cpp goes on from a last message of the assistant's without being told.
    "llamacpp": Dialect(
        stream_fields={"stream_options": {"include_usage": True}, "timings_per_token": True},
        render_path="apply-template",
        render_result="prompt",
    ),
}
# Such a server is told to continue only where a setting says that it can.
_OPENAI: Final = Dialect(stream_fields={"stream_options": {"include_usage": True}}, continue_fields=_CONTINUE_FIELDS)


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model that can be asked."""

    id: str
    max_context_tokens: int | None
    """Tokens that prompt and answer may have together; None where the server does not say."""
    dialect: Dialect


@dataclass(slots=True)
class _Listing:
    asked_at: float
    models: Mapping[str, ServedModel]
    probes: dict[str, "asyncio.Task[bool]"] = field(default_factory=dict)


class ModelCatalogue:
    """The model server's list of models, kept for a minute and asked for again after a failure."""

    def __init__(self, server: ModelServer, default_model: str, *, continues: bool | None = None) -> None:
        """``default_model``: the id that answers where a request names none; empty takes the server's first.

        ``continues``: whether the server goes on from the beginning of an answer; None asks it.
        """
        self._server = server
        self._default_model = default_model
        self._continues = continues
        self._listing: _Listing | None = None
        self._asking: asyncio.Task[_Listing] | None = None

    async def list(self) -> Sequence[tuple[ServedModel, bool]]:
        """The models served now, in the server's order, each with whether it is the default. Raises LlmError."""
        models = (await self._ask()).models
        default = self._name_of_default(models)
        return [(model, model.id == default) for model in models.values()]

    async def resolve(self, name: str) -> ServedModel:
        """The model of this name; empty takes the default. Raises LlmError, MODEL_NOT_FOUND if it is not served."""
        now = asyncio.get_running_loop().time()
        listing = self._listing
        if listing is None or listing.asked_at + _FRESH_SECONDS < now:
            listing = await self._ask()
        model = self._find(listing, name)
        if model is None and listing.asked_at + _SETTLED_SECONDS < now:
            model = self._find(await self._ask(), name)
        if model is None:
            wanted = name or self._default_model
            raise LlmError(
                Reason.MODEL_NOT_FOUND,
                f"the model server does not serve {wanted!r}" if wanted else "the model server serves no model",
            )
        return model

    def forget(self) -> None:
        """Ask anew next time: the model server has failed or has lost a model."""
        self._listing = None

    async def can_continue(self, model: ServedModel) -> bool:
        """Whether the model server goes on from the beginning of an answer. Raises LlmError where it cannot be asked.

        It can if its prompt for a begun answer is its prompt for a fresh answer followed by the beginning, left open:
        the prompts of no beginning, of a beginning and of a longer one must each begin with the one before.
        """
        if self._continues is not None:
            return self._continues
        probes = self._listing.probes if self._listing else {}
        probe = probes.get(model.id)
        if probe is None or (probe.done() and probe.exception()):
            probe = probes[model.id] = _shared(self._probe(model))
        return await asyncio.shield(probe)

    async def _ask(self) -> _Listing:
        """The list as of now, asked for once however many calls want it."""
        if self._asking is None or self._asking.done():
            self._asking = _shared(self._fetch())
        return await asyncio.shield(self._asking)

    async def _fetch(self) -> _Listing:
        asked_at = asyncio.get_running_loop().time()
        try:
            entries = await self._server.models()
        except LlmError:
            self.forget()
            raise
        self._listing = _Listing(asked_at, {entry["id"]: _served(entry) for entry in entries})
        return self._listing

    def _name_of_default(self, models: Mapping[str, ServedModel]) -> str:
        return self._default_model or next(iter(models), "")

    def _find(self, listing: _Listing, name: str) -> ServedModel | None:
        return listing.models.get(name or self._name_of_default(listing.models))

    async def _probe(self, model: ServedModel) -> bool:
        if not model.dialect.render_path:
            return False
        try:
            prompts = [await self._render(model, beginning) for beginning in ("", "The quick", "The quick brown fox")]
        except LlmError as error:
            if error.reason in (Reason.MODEL_SERVER_UNAVAILABLE, Reason.MODEL_SERVER_OVERLOADED):
                raise
            return False
        return all(
            len(before) < len(after) and after[: len(before)] == before for before, after in itertools.pairwise(prompts)
        )

    async def _render(self, model: ServedModel, beginning: str) -> Sequence[Any]:
        messages = [{"role": "user", "content": "Say something."}]
        fields: Mapping[str, Any] = {"add_generation_prompt": True}
        if beginning:
            messages.append({"role": "assistant", "content": beginning})
            fields = model.dialect.continue_fields
        answer = await self._server.ask_beside(
            model.dialect.render_path, {"model": model.id, "messages": messages, **fields}
        )
        prompt = answer.get(model.dialect.render_result)
        if not isinstance(prompt, str | list):
            raise LlmError(Reason.MODEL_SERVER_INVALID, "the model server does not show its prompt")
        return prompt


def _shared(work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
    """A task that several calls await; it goes on when one of them is cancelled, and may fail with none left."""
    task = asyncio.create_task(work)
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    return task


def _served(entry: Mapping[str, Any]) -> ServedModel:
    meta = entry.get("meta")
    # vLLM's name for it, then llama.cpp's.
    limit = entry.get("max_model_len") or (meta.get("n_ctx") if isinstance(meta, dict) else None)
    return ServedModel(
        id=entry["id"],
        max_context_tokens=limit if isinstance(limit, int) and 0 < limit < 2**32 else None,
        dialect=_DIALECTS.get(str(entry.get("owned_by")), _OPENAI),
    )
