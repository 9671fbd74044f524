"""The instrument itself: what other tests rely on."""

import json

import aiohttp
import pytest

from tests.fakes.model_server import FakeModelServer, Options, Script, expected_answer
from tests.fakes.script import answer_tokens, continued, cut_at_stop
from tests.llm_service.processes import model_process


def test_an_answer_depends_on_the_question_alone_and_grows_at_its_end() -> None:
    assert expected_answer("q [[tokens=40]]").startswith(expected_answer("q [[delay=1 tokens=7 fault=cut]]"))
    assert expected_answer("q") != expected_answer("r")
    assert expected_answer("q", Script(tokens=5)) == expected_answer("q [[tokens=5]]")


def test_a_directive_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(ValueError, match="no such directive: tokns"):
        expected_answer("q [[tokns=5]]")


def test_an_answer_can_be_the_question_itself() -> None:
    assert expected_answer("[[echo=2 delay=1]] # A\n\nb") == "# A\n\nb\n# A\n\nb"


@pytest.mark.parametrize("length", [0, 1, 6, 17, 30])
def test_a_continued_answer_is_the_rest_of_it(length: int) -> None:
    tokens = answer_tokens("q", Script(words="mixed"))
    whole = "".join(tokens)
    assert whole[:length] + "".join(continued(tokens, whole[:length])) == whole


def test_a_stop_string_may_lie_across_tokens() -> None:
    assert cut_at_stop(["ab", " cd", " ef"], ["zz", "d e"]) == (["ab", " c"], True)
    assert cut_at_stop(["ab"], ["x"]) == (["ab"], False)


@pytest.mark.processes
async def test_it_can_be_told_over_http_as_a_process() -> None:
    async with (
        model_process("tests.fakes.model_server", "--port", "0", "--model", "m") as url,
        aiohttp.ClientSession(url.removesuffix("v1")) as session,
    ):
        body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "q [[tokens=3 hold=2]]"}]}
        async with session.post("v1/chat/completions", json=body) as held:
            await held.content.readuntil(b"data: ")
            async with session.get("fake/stats", params={"question": "q"}) as response:
                assert (await response.json())["in_flight"] == 1
            (await session.post("fake/release")).release()
            events = (await held.text()).split("\n\n")
        assert [line for line in events if line][-1] == "data: [DONE]"
        (await session.post("fake/faults", json={"fault": "503", "times": 1, "retry_after": "4"})).release()
        async with session.post("v1/chat/completions", json=body) as refused:
            assert (refused.status, refused.headers["Retry-After"]) == (503, "4")
        async with session.get("fake/stats", params={"questions": "1"}) as response:
            stats = json.loads(await response.text())
    counts = {"requests": 2, "completed": 1, "faulted": 1, "aborted": 0, "in_flight": 0, "tokens_written": 3}
    assert {name: stats[name] for name in counts} == counts
    assert {name: stats["questions"]["q"][name] for name in counts} == counts


@pytest.mark.loopback
async def test_a_fault_can_be_for_the_first_requests_only() -> None:
    async with FakeModelServer(Options()) as fake, aiohttp.ClientSession() as session:
        body = {
            "model": "fake-model",
            "stream": True,
            "messages": [{"role": "user", "content": "q [[fault=500 times=2]]"}],
        }
        statuses = []
        for _ in range(3):
            async with session.post(f"{fake.url}/chat/completions", json=body) as response:
                statuses.append(response.status)
                await response.read()
    assert statuses == [500, 500, 200]


@pytest.mark.loopback
@pytest.mark.parametrize(("begun", "left"), [(2, 1), (3, 0), (5, 0)])
async def test_a_continuation_meets_a_fault_where_the_whole_answer_does(begun: int, left: int) -> None:
    asked = "q [[tokens=6 fault=cut at=3]]"
    tokens = answer_tokens(asked, Script(tokens=6))
    async with FakeModelServer(Options()) as fake, aiohttp.ClientSession() as session:
        body = {
            "model": "fake-model",
            "stream": True,
            "continue_final_message": True,
            "messages": [
                {"role": "user", "content": asked},
                {"role": "assistant", "content": "".join(tokens[:begun])},
            ],
        }
        async with session.post(f"{fake.url}/chat/completions", json=body) as response:
            with pytest.raises(aiohttp.ClientPayloadError):
                await response.read()
        assert fake.counts.tokens_written == left
