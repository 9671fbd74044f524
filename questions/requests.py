"""What the model is sent for a question. No other place adds a message.

A request is made once, when it is asked, and stored with its answer: whoever generates the answer, by whatever
settings, generates that. It lacks what belongs to one attempt: ``request_id``, ``time_limit`` and ``answer_prefix``.
"""

from askmesh.llm.v1 import generation_pb2 as pb
from google.protobuf.duration_pb2 import Duration

from foundation.settings import GenerationSettings
from questions.answer_key import normalise

CONTROL_TOKENS = 16
"""Long enough to show a server that breaks its answers off."""


def request_for(question_text: str, settings: GenerationSettings) -> pb.GenerationSpec:
    """The request that answers a question.

    Instructions and question stay separate messages: neither can be mistaken for the other. It names no model, which
    stands for ASKMESH_MODEL_NAME at the time of the generation: a question outlives the model that was there when it
    was asked.
    """
    messages = [pb.Message(role=pb.ROLE_USER, content=normalise(question_text))]
    if settings.system_prompt:
        messages.insert(0, pb.Message(role=pb.ROLE_SYSTEM, content=settings.system_prompt))
    return pb.GenerationSpec(
        messages=messages,
        sampling=pb.Sampling(temperature=settings.temperature),
        max_output_tokens=settings.max_output_tokens,
    )


def generation_spec(
    request: pb.GenerationSpec,
    request_id: str,
    settings: GenerationSettings,
    *,
    written: str = "",
    written_tokens: int = 0,
) -> pb.GenerationSpec:
    """The request as one attempt sends it.

    ``written``: the text of the attempts before, to go on from; fewer of its tokens than the limit allows. Of the
    settings count the model, where the request names none, and the time limit.
    """
    time_limit = Duration()
    time_limit.FromNanoseconds(int(settings.max_generation_seconds * 1e9))
    spec = pb.GenerationSpec()
    spec.CopyFrom(request)
    spec.MergeFrom(pb.GenerationSpec(request_id=request_id, time_limit=time_limit, answer_prefix=written))
    spec.model = request.model or settings.model_name
    if request.HasField("max_output_tokens"):
        spec.max_output_tokens = request.max_output_tokens - written_tokens
    return spec


def control_spec(request_id: str, settings: GenerationSettings) -> pb.GenerationSpec:
    """A short request that any working model answers: by it a worker learns whether the engine answers at all."""
    short = settings.model_copy(update={"max_output_tokens": min(CONTROL_TOKENS, settings.max_output_tokens)})
    return generation_spec(request_for("Say hello.", short), request_id, settings)
