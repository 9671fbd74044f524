"""The embedded model, as the tests of the services run it."""

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from embedded import model as model_module
from embedded.errors import EmbeddedError
from embedded.model import EmbeddedModelServer


@pytest.fixture(scope="module")
def server(processes: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedModelServer]:
    with EmbeddedModelServer(tmp_path_factory.mktemp("model"), name="a-name") as server:
        yield server


def ask(server: EmbeddedModelServer, text: str) -> dict[str, object]:
    body = {"messages": [{"role": "user", "content": text}], "max_tokens": 4}
    headers = {"Content-Type": "application/json"}
    with urlopen(Request(f"{server.url}/chat/completions", json.dumps(body).encode(), headers)) as response:
        answer: dict[str, object] = json.load(response)
        return answer


def test_it_has_the_name_it_was_given(server: EmbeddedModelServer) -> None:
    with urlopen(f"{server.url}/models") as response:
        assert [model["id"] for model in json.load(response)["data"]] == ["a-name"]


def test_it_answers(server: EmbeddedModelServer) -> None:
    usage = ask(server, "What is the capital of France?")["usage"]
    assert isinstance(usage, dict)
    assert 1 <= usage["completion_tokens"] <= 4


def test_a_prompt_beyond_its_context_is_refused_and_the_next_is_answered(server: EmbeddedModelServer) -> None:
    with pytest.raises(HTTPError) as refusal:
        ask(server, "字" * 8_000)
    with refusal.value as response:
        assert response.code == 400
        assert json.load(response)["error"]["type"] == "exceed_context_size_error"
    assert ask(server, "Are you there?")["choices"]


def test_it_counts_and_does_not_show_what_it_is_asked(server: EmbeddedModelServer) -> None:
    address = server.url.removesuffix("/v1")
    with urlopen(f"{address}/metrics") as response:
        assert b"llamacpp:prompt_tokens_total" in response.read()
    with pytest.raises(HTTPError) as refusal:
        urlopen(f"{address}/slots")
    refusal.value.close()


@pytest.mark.loopback
def test_a_missing_file_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_module, "find_spec", lambda _name: None)
    with pytest.raises(EmbeddedError, match=r"^the embedded model's file is missing: .* or set ASKMESH_MODEL_URL"):
        EmbeddedModelServer(tmp_path).prepare()
