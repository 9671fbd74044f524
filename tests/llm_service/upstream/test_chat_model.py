"""StreamingChatModel is a LangChain chat model like any other."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest
from langchain_core.callbacks import AsyncCallbackHandler
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, SystemMessage, ToolMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.outputs import LLMResult
from langchain_core.prompts import ChatPromptTemplate

from llm_service.errors import LlmError, Reason
from llm_service.upstream.chat_model import StreamingChatModel
from llm_service.upstream.client import ModelServerClient
from tests.fakes.model_server import FakeModelServer, expected_answer
from tests.llm_service.conftest import until


class Recorder(AsyncCallbackHandler):
    def __init__(self) -> None:
        self.tokens: list[str] = []
        self.ends: list[LLMResult] = []
        self.errors: list[BaseException] = []

    async def on_llm_new_token(self, token: object, **_: Any) -> None:
        self.tokens.append(str(token))

    async def on_llm_end(self, response: LLMResult, **_: Any) -> None:
        self.ends.append(response)

    async def on_llm_error(self, error: BaseException, **_: Any) -> None:
        self.errors.append(error)


@pytest.fixture
async def model(fake: FakeModelServer) -> AsyncIterator[StreamingChatModel]:
    async with ModelServerClient(fake.url) as server:
        yield StreamingChatModel(server=server, model="first")


async def test_chunks_add_up_to_the_answer_with_its_usage(model: StreamingChatModel) -> None:
    chunks = [chunk async for chunk in model.astream("q [[tokens=5 delay=0.001]]")]
    assert len(chunks) >= 3
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    assert isinstance(whole, AIMessageChunk)
    assert whole.text == expected_answer("q [[tokens=5]]")
    assert whole.usage_metadata == {"input_tokens": 7, "output_tokens": 5, "total_tokens": 12}
    assert whole.response_metadata == {"model_name": "first", "finish_reason": "stop"}
    assert whole.chunk_position == "last"


async def test_the_first_chunk_is_empty_and_comes_when_the_server_has_accepted(model: StreamingChatModel) -> None:
    async with aclosing(model.astream("q [[first=3600]]")) as chunks:  # type: ignore[type-var]
        first = await anext(chunks)
    assert first.content == ""


async def test_ainvoke_gives_the_whole_message(model: StreamingChatModel) -> None:
    message = await model.ainvoke([SystemMessage("s"), HumanMessage("q"), AIMessage("a"), HumanMessage("r")])
    assert type(message) is AIMessage
    assert message.text == expected_answer("r")
    assert message.usage_metadata == {"input_tokens": 20, "output_tokens": 12, "total_tokens": 32}
    assert message.response_metadata["finish_reason"] == "stop"


async def test_fields_can_be_bound_and_given(model: StreamingChatModel, fake: FakeModelServer) -> None:
    bound = model.bind(temperature=0.5, stop=["!"])
    await bound.ainvoke("q", max_tokens=3, model="second")
    body = fake.bodies[-1]
    assert (body["model"], body["temperature"], body["stop"], body["max_tokens"]) == ("second", 0.5, ["!"], 3)
    assert body["messages"] == [{"role": "user", "content": "q"}]
    assert body["stream"] is True


async def test_it_is_a_link_of_a_chain(model: StreamingChatModel) -> None:
    chain = ChatPromptTemplate([("system", "be brief"), ("human", "{question}")]) | model | StrOutputParser()
    assert await chain.ainvoke({"question": "why?"}) == expected_answer("why?")
    parts = [part async for part in chain.astream({"question": "why? [[delay=0.001]]"})]
    assert "".join(parts) == expected_answer("why?")


@pytest.mark.parametrize("bound", [True, False])
async def test_callbacks_see_tokens_and_the_whole_answer(model: StreamingChatModel, bound: bool) -> None:
    recorder = Recorder()
    config: Any = {"callbacks": [recorder]}
    asked = model.with_config(config).astream("q") if bound else model.astream("q", config)
    text = "".join([chunk.text async for chunk in asked])
    assert text == "".join(recorder.tokens) == expected_answer("q")
    assert recorder.ends[0].generations[0][0].text == text


async def test_callbacks_see_the_error(model: StreamingChatModel) -> None:
    recorder = Recorder()
    with pytest.raises(LlmError) as caught:
        await model.ainvoke("q [[fault=429]]", {"callbacks": [recorder]})
    assert caught.value.reason is Reason.MODEL_SERVER_OVERLOADED
    assert recorder.errors == [caught.value]


async def test_a_batch_runs_at_once(model: StreamingChatModel, fake: FakeModelServer) -> None:
    questions = [f"q{index} [[delay=0.05 tokens=3]]" for index in range(20)]
    answers = await model.abatch(questions)  # type: ignore[arg-type]
    assert [answer.text for answer in answers] == [expected_answer(question) for question in questions]
    assert fake.counts.peak_in_flight == 20


@pytest.mark.parametrize("observed", [True, False])
async def test_closing_a_stream_closes_the_request(
    model: StreamingChatModel, fake: FakeModelServer, observed: bool
) -> None:
    config: Any = {"callbacks": [Recorder()]} if observed else None
    async with aclosing(model.astream("q [[delay=3600]]", config)) as chunks:  # type: ignore[type-var]
        async for chunk in chunks:
            if chunk.content:
                break
    await until(lambda: fake.counts.aborted == 1)


async def test_a_chunk_of_an_earlier_turn_is_a_message_and_a_tool_is_none(
    model: StreamingChatModel, fake: FakeModelServer
) -> None:
    await model.ainvoke([HumanMessage("q"), AIMessageChunk(content="a"), HumanMessage("r")])
    assert [message["role"] for message in fake.bodies[-1]["messages"]] == ["user", "assistant", "user"]
    with pytest.raises(ValueError, match="type tool"):
        await model.ainvoke([HumanMessage("q"), ToolMessage("x", tool_call_id="1")])


def test_a_call_without_a_loop_says_what_to_use() -> None:
    with pytest.raises(NotImplementedError, match="ainvoke"):
        StreamingChatModel(server=ModelServerClient("http://127.0.0.1:9/v1")).invoke("q")
