"""A second mesh, which shares what it may share."""

import asyncio
import random
import tempfile
from pathlib import Path

from tests.chaos.crowd import Crowd
from tests.chaos.faults import Fault
from tests.chaos.stage import Stage
from tests.fakes.script import expected_answer
from tests.mesh import Mesh

_QUESTIONS = 60
_AT_ONCE = 16


class SecondMesh(Fault):
    """Another mesh on the same Redis server, in another of its databases. Both count their answers from 1."""

    async def prepare(self, stage: Stage) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="askmesh-chaos-")
        database = stage.valkey_url.partition("?")[0] + "?db=5"
        settings = {
            "ASKMESH_REDIS_URL": database,
            "ASKMESH_MODEL_URL": stage.model.url,
            "ASKMESH_ALLOW_WEAK_SECRETS": "true",
        }
        self._mesh = Mesh(Path(self._folder.name), settings)
        await asyncio.to_thread(self._mesh.start)

    async def inject(self, stage: Stage, rng: random.Random) -> None:
        texts = [f"of the other mesh {rng.random()} [[tokens=8 delay=0.12]]" for _ in range(_QUESTIONS)]
        crowd = Crowd(lambda: self._mesh.api, texts, _AT_ONCE, 0.5, rng)
        await crowd.ask_all()
        for question in crowd.questions:
            assert question.final is not None, question
            assert question.final["answer_text"] == expected_answer(question.text), question
        assert not crowd.surprises, crowd.surprises

    async def release(self) -> None:
        left = await asyncio.to_thread(self._mesh.stop)
        self._folder.cleanup()
        assert left == [], f"left running: {left}"
