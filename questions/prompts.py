"""The messages that the model is sent for a question. No other place adds any."""

from askmesh.llm.v1 import generation_pb2 as pb
from google.protobuf.duration_pb2 import Duration

from foundation.settings import GenerationSettings
from questions.answer_key import normalise

CONTROL_TOKENS = 16
"""Long enough to show a server that breaks its answers off."""


def generation_spec(
    answer_id: int,
    attempt: int,
    question_text: str,
    settings: GenerationSettings,
    *,
    written: str = "",
    written_tokens: int = 0,
) -> pb.GenerationSpec:
    """The request for one attempt at an answer.

    Instructions and question stay separate messages: neither can be mistaken for the other.
    ``written``: the text of the attempts before, to go on from; fewer of its tokens than the limit allows.
    """
    messages = [pb.Message(role=pb.ROLE_USER, content=normalise(question_text))]
    if settings.system_prompt:
        messages.insert(0, pb.Message(role=pb.ROLE_SYSTEM, content=settings.system_prompt))
    time_limit = Duration()
    time_limit.FromNanoseconds(int(settings.max_generation_seconds * 1e9))
    return pb.GenerationSpec(
        request_id=f"answer-{answer_id}-{attempt}",
        model=settings.model_name,
        messages=messages,
        sampling=pb.Sampling(temperature=settings.temperature),
        max_output_tokens=settings.max_output_tokens - written_tokens,
        time_limit=time_limit,
        answer_prefix=written,
    )


def control_spec(request_id: str, settings: GenerationSettings) -> pb.GenerationSpec:
    """A short request that any working model answers: by it a worker learns whether the engine answers at all."""
    short = settings.model_copy(update={"max_output_tokens": min(CONTROL_TOKENS, settings.max_output_tokens)})
    spec = generation_spec(0, 0, "Say hello.", short)
    spec.request_id = request_id
    return spec
