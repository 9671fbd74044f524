"""A reader that asks and waits, over a server that says what a test tells it to."""

from collections.abc import Sequence

import orjson
import pytest

from benchmarks.http_client import HttpClient, Response
from benchmarks.load import Load, _Users
from benchmarks.model_server import answer_text

ANSWER = answer_text(32)


class Scripted(HttpClient):
    """Gives these replies in turn, and notes what was sent."""

    def __init__(self, replies: Sequence[tuple[int, str, str]]) -> None:
        super().__init__("http://localhost:1")
        self._replies = iter(replies)
        self.sent: list[bytes] = []

    async def _send(self, message: bytes, on_part: object) -> Response:
        self.sent.append(message.split(b" HTTP/1.1\r\n")[0])
        response = Response()
        response.status, status, text = next(self._replies)
        response.body = orjson.dumps({"question_id": 7, "status": status, "answer_text": text})
        return response


@pytest.mark.parametrize(
    ("replies", "wrong"),
    [
        ([(200, "completed", ANSWER)], {}),
        ([(202, "queued", ""), (200, "in_progress", ""), (200, "completed", ANSWER)], {}),
        ([(200, "failed", "sorry")], {"waited: 200 failed": 1}),
        ([(503, "", "")], {"waited: 503 ": 1}),
    ],
)
async def test_who_waits_goes_on_until_the_question_has_ended(
    replies: list[tuple[int, str, str]], wrong: dict[str, int]
) -> None:
    client = Scripted(replies)
    seen = await _Users(Load("wait", "", 1), client).run()
    assert client.sent == [b"POST /api/ask?wait=60", *[b"GET /api/answer/7?wait=60"] * (len(replies) - 1)]
    assert seen.wrong == wrong
    assert len(seen.latencies) == 1
