"""The bare parts answer, or they would be no measure of anything."""

import json
from urllib.request import Request, urlopen

from benchmarks.model_server import Profile, answer_text
from benchmarks.parts import parts
from benchmarks.stage import model_server, run


def test_a_question_is_answered_and_stored(database_url: str) -> None:
    with model_server() as (_, model), parts(database_url, model) as (url, pids):
        question = Request(f"{url}/api/ask", data=json.dumps({"question_text": "Why?"}).encode())
        with urlopen(question, timeout=20) as reply:
            answer = json.load(reply)
        assert len(pids) == 2
    expected = answer_text(Profile().tokens)
    assert answer == {"question_id": answer["question_id"], "status": "completed", "answer_text": expected}
    assert run(database_url, "SELECT answer FROM bare WHERE id = $1 AND question = 'Why?'", 1) == expected
