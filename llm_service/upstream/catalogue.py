"""Which models the model server serves, which of them is the default, and what each can do."""

import asyncio
import hashlib
import itertools
import json
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from llm_service.errors import LlmError, Reason
from llm_service.upstream.client import ModelServerClient
from llm_service.upstream.refusals.vendor_words import URL_REMEDY

T = TypeVar("T")

MODELS_CHANGE: Final = "the model server lists models that it does not serve"

# The server is asked again for a list this old: it may have been replaced in silence.
_FRESH_SECONDS: Final = 60.0
# An unknown name asks for the list again, but a flood of unknown names only once a second.
_SETTLED_SECONDS: Final = 1.0
_SHOWN: Final = 3


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
    # llama.cpp continues a last message of the assistant without being told.
    "llamacpp": Dialect(
        stream_fields={"stream_options": {"include_usage": True}, "timings_per_token": True},
        render_path="apply-template",
        render_result="prompt",
    ),
}
# A server of another kind is told to continue only where a setting says that it can.
_OPENAI: Final = Dialect(stream_fields={"stream_options": {"include_usage": True}}, continue_fields=_CONTINUE_FIELDS)


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model that can be asked."""

    id: str
    max_context_tokens: int | None
    """Tokens that prompt and answer may have together; None where the server does not say."""
    dialect: Dialect
    revision: str = ""
    """Tells two sets of weights behind one id apart, as far as the server shows; the contract's Model.revision."""


@dataclass(slots=True)
class _Listing:
    asked_at: float
    models: Mapping[str, ServedModel]
    is_complete: bool = True
    """False where the server has no list: whatever is asked for may be served."""
    probes: dict[str, "asyncio.Task[bool]"] = field(default_factory=dict)


class ModelCatalogue:
    """The model server's list of models, kept for a minute and asked for again after a failure."""

    def __init__(
        self,
        server: ModelServerClient,
        default_model: str,
        *,
        continues: bool | None = None,
        names: Sequence[str] = (),
        revision: str = "",
    ) -> None:
        """``default_model``: the id that answers where a request names none; empty takes the server's first.

        ``continues``: whether the server goes on from the beginning of an answer; None asks it.
        ``names``: what the server serves, so that it is not asked.
        ``revision``: of all models; empty: what the server says of each.
        """
        self._server = server
        self._revision = revision
        self._default_model = default_model
        self._continues = continues
        self._names = names
        self._listing: _Listing | None = None
        self._asking: asyncio.Task[_Listing] | None = None

    async def list(self) -> Sequence[tuple[ServedModel, bool]]:
        """The models served now, in the server's order, each with whether it is the default. Raises LlmError."""
        listing = await self._ask()
        if not listing.models:
            raise self._absent(listing, "")
        default = self._find(listing, "")
        return [(model, model is default) for model in listing.models.values()]

    async def resolve(self, name: str) -> ServedModel:
        """The model of this name; empty takes the default.

        Raises LlmError: MODEL_NOT_FOUND if the server does not serve a name that a caller chose;
        MODEL_SERVER_UNAVAILABLE if it serves nothing, or not what settings name: it is not up yet, or wrongly set up.
        """
        now = asyncio.get_running_loop().time()
        listing = self._listing
        if listing is None or listing.asked_at + _FRESH_SECONDS < now:
            listing = await self._ask()
        model = self._find(listing, name)
        if model is None and listing.asked_at + _SETTLED_SECONDS < now:
            listing = await self._ask()
            model = self._find(listing, name)
        if model is None:
            raise self._absent(listing, name)
        return model

    async def instead_of(self, model: ServedModel, name: str) -> ServedModel:
        """The model that answers to the name now, because the server says that it does not serve this one.

        Raises LlmError as ``resolve`` does, and if the list still names this model, as a server that starts may.
        """
        listing = await self._ask()
        found = self._find(listing, name)
        if found is None:
            raise self._absent(listing, name)
        if found.id == model.id:
            if not listing.is_complete and not self._is_ours(name):
                raise LlmError(Reason.MODEL_NOT_FOUND, f"the model server does not serve {name!r}")
            raise LlmError(Reason.MODEL_SERVER_UNAVAILABLE, MODELS_CHANGE)
        return found

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
        """The list as of now. Calls that want it at the same time share one request."""
        if self._asking is None or self._asking.done():
            self._asking = _shared(self._fetch())
        return await asyncio.shield(self._asking)

    async def _fetch(self) -> _Listing:
        asked_at = asyncio.get_running_loop().time()
        if self._names:
            models = {name: _served({"id": name}, self._revision) for name in self._names}
            self._listing = _Listing(asked_at, models)
            return self._listing
        try:
            entries = await self._server.models()
        except LlmError:
            self.forget()
            raise
        is_complete = entries is not None
        if entries is None:
            entries = [{"id": self._default_model}] if self._default_model else []
        self._listing = _Listing(
            asked_at, {entry["id"]: _served(entry, self._revision) for entry in entries}, is_complete
        )
        return self._listing

    def _find(self, listing: _Listing, name: str) -> ServedModel | None:
        wanted = name or self._default_model
        if not wanted:
            return next(iter(listing.models.values()), None)
        # Ollama lists llama3.2:latest and Google models/gemini-2.5-flash; people ask for both by the short name.
        for id_ in (wanted, f"{wanted}:latest", f"models/{wanted}"):
            if id_ in listing.models:
                return listing.models[id_]
        return None if listing.is_complete else _served({"id": wanted}, self._revision)

    def _is_ours(self, name: str) -> bool:
        """Whether the name comes from settings, or from the list, and not from whoever asks."""
        return name in ("", self._default_model)

    def _absent(self, listing: _Listing, name: str) -> LlmError:
        if not listing.is_complete:
            why = f"has no list of models: {URL_REMEDY}, or set ASKMESH_MODEL_NAMES to what it serves"
        elif not listing.models:
            why = "lists no model"
        elif self._is_ours(name):
            served = ", ".join(map(repr, list(listing.models)[:_SHOWN]))
            why = f"does not serve {self._default_model!r}, which ASKMESH_MODEL_NAME says: it serves {served}"
        else:
            return LlmError(Reason.MODEL_NOT_FOUND, f"the model server does not serve {name!r}")
        return LlmError(Reason.MODEL_SERVER_UNAVAILABLE, f"the model server {why}")

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


def _served(entry: Mapping[str, Any], revision: str) -> ServedModel:
    meta = entry.get("meta")
    # vLLM's name for it, then llama.cpp's.
    limit = entry.get("max_model_len") or (meta.get("n_ctx") if isinstance(meta, dict) else None)
    return ServedModel(
        id=entry["id"],
        max_context_tokens=limit if type(limit) is int and 0 < limit < 2**32 else None,
        dialect=_DIALECTS.get(str(entry.get("owned_by")), _OPENAI),
        revision=revision or _said_revision(entry),
    )


def _said_revision(entry: Mapping[str, Any]) -> str:
    """A digest of what the server says of the weights, as far as that stays the same while the weights do.

    vLLM's ``root`` is where they lie, whatever the model is called; llama.cpp's ``meta`` has their size. Not
    ``created``, which is the time of the request for some.
    """
    meta = entry.get("meta")
    facts = [entry.get("root"), *((meta.get("n_params"), meta.get("size")) if isinstance(meta, dict) else ())]
    if all(fact is None or fact == entry["id"] for fact in facts):
        return ""
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]
