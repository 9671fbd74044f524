"""Which model answers now, so that no answer of another one is given in its place."""

import asyncio
from typing import Final

from askmesh_client import GenerationClient, GenerationError
from sqlalchemy.ext.asyncio import AsyncEngine

from api_service.core.sampling import every
from models.identity import UNKNOWN, identity, remember, remembered

_LOOK_SECONDS: Final = 2.0
_CALL_SECONDS: Final = 1.0
# What the first question of a process waits for llm_service to say it, once.
_PATIENCE_SECONDS: Final = 0.25


class AnsweringModel:
    """The model of this name, or the default, as llm_service last said; as PostgreSQL has it until llm_service does."""

    def __init__(self, client: GenerationClient, engine: AsyncEngine, name: str) -> None:
        """``name``: as ASKMESH_MODEL_NAME; empty for the default of llm_service."""
        self._client = client
        self._engine = engine
        self._name = name
        self._identity: str | None = None
        self._looked = asyncio.Event()
        self._remembered: str | None = None

    async def identity(self) -> str:
        """The model's identity; empty where nobody has ever said it.

        Waits for llm_service and PostgreSQL the first time only, and raises what PostgreSQL raises.
        """
        if self._identity is None:
            if not self._looked.is_set():
                await self._wait_for_look()
            if self._identity is None:
                return await self._read_remembered()
        return self._identity

    async def watch(self) -> None:
        """Ask llm_service every 2 s, until cancelled. While it is away, what it said last stands."""
        await every(_LOOK_SECONDS, self._look, "the model that answers")

    async def _wait_for_look(self) -> None:
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                await self._looked.wait()
        except TimeoutError:
            self._looked.set()

    async def _read_remembered(self) -> str:
        if self._remembered is None:
            self._remembered = await remembered(self._engine, self._name)
        return self._remembered

    async def _look(self) -> None:
        try:
            models = await self._client.list_models(timeout=_CALL_SECONDS)
        except GenerationError:
            models = []
        # A name may stand for an id that llm_service knows, as llama3.2 for llama3.2:latest. Where it turns out to be
        # another's, no harm is done: whoever writes an answer says so.
        named = [model for model in models if model.id == self._name]
        for model in named or [model for model in models if model.is_default]:
            self._identity = identity(model.id, model.revision)
        self._looked.set()
        if self._identity is None:
            self._remembered = await remembered(self._engine, self._name)  # another process may have learned it
        elif self._identity not in (UNKNOWN, self._remembered):
            await remember(self._engine, self._name, self._identity)
            self._remembered = self._identity
