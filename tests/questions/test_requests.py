from askmesh.llm.v1 import generation_pb2 as pb

from foundation.settings import GenerationSettings
from questions.requests import control_spec, generation_spec, request_for


def test_instructions_and_question_are_separate_messages() -> None:
    messages = request_for(" What? ", GenerationSettings(system_prompt="Be brief.")).messages
    assert [(message.role, message.content) for message in messages] == [
        (pb.ROLE_SYSTEM, "Be brief."),
        (pb.ROLE_USER, "What?"),
    ]


def test_without_a_system_prompt_there_is_no_system_message() -> None:
    settings = GenerationSettings(system_prompt="")
    request = request_for("What?", settings)
    for spec in (request, generation_spec(request, "id", settings), control_spec("control-1", settings)):
        assert [message.role for message in spec.messages] == [pb.ROLE_USER]
