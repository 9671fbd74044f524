"""Streams of the real api_service, read through nginx while nginx is restarted."""

from collections.abc import Callable
from itertools import accumulate
from urllib.parse import urlsplit

import pytest
from aiohttp import ClientError, ClientSession
from sqlalchemy.ext.asyncio import AsyncEngine

from embedded.valkey import Valkey
from foundation.redis import MeshRedis
from tests.api_service.serving import serving, settings_for
from tests.api_service.sse import Event, ask, read, text_of, watching
from tests.api_service.writing import Writer
from tests.nginx.conftest import OpenEdge
from tests.nginx.edge import Edge

WORDS = "What does a reader miss of a restart?"


@pytest.mark.parametrize("end", [Edge.stop, Edge.kill], ids=["stopped", "killed"])
async def test_a_stream_that_is_cut_goes_on_at_the_same_byte(
    open_edge: OpenEdge,
    database_url: str,
    valkey: Valkey,
    engine: AsyncEngine,
    redis: MeshRedis,
    end: Callable[[Edge], None],
) -> None:
    async with serving(settings_for(database_url, valkey)) as url:
        edge = open_edge(api=[urlsplit(url).port])
        async with ClientSession(edge.url) as api:
            question_id = await ask(api, WORDS)
            writer = await Writer.begin(engine, redis, WORDS)
            seen: list[Event] = []
            last_id = None
            for heard, missed in (("Grün ", "и "), ("дальше ", "🙂 "), ("so", "\u0308 ")):
                async with watching(api, question_id, last_id) as stream:
                    await writer.write(heard)
                    while text_of(seen) != writer.text:
                        seen.append(await stream.next())
                    last_id = seen[-1].id
                    end(edge)
                    await writer.write(missed)
                    with pytest.raises(ClientError):
                        await stream.rest()
                edge.start()
            async with watching(api, question_id, last_id) as stream:
                await writer.write("end.")
                await writer.complete()
                seen += await stream.rest()
            final = await read(api, question_id)
    texts = [event for event in seen if event.name == "delta"]
    lengths = accumulate(len(event.data["text"].encode()) for event in texts)
    assert [event.id for event in texts] == [f"0:{length}" for length in lengths]
    assert text_of(seen) == writer.text == final["answer_text"]
    assert (seen[-1].name, seen[-1].data) == ("completed", final)
