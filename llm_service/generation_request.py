"""What to generate, and how the model server is asked for it.

This is the one place that knows both, so that a further field of the contract is a limit in rpc/validation.py and a
line here. A further field of ``Sampling`` is a limit alone: the model server gets it under the same name.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage

from llm_service.upstream.catalogue import ServedModel
from llm_service.upstream.template_markers import without_markers


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """A GenerationSpec within its limits. Empty and None mean what unset means in the contract."""

    messages: Sequence[BaseMessage]
    model: str = ""
    sampling: Mapping[str, float] = field(default_factory=dict)
    stop: Sequence[str] = ()
    max_output_tokens: int | None = None
    time_limit: float | None = None
    """Seconds from the call's arrival."""
    answer_prefix: str = ""

    def chat_messages(self) -> list[BaseMessage]:
        """The messages to send; the beginning of an answer that is to be continued is the last of them."""
        messages = [type(message)(without_markers(message.text)) for message in self.messages]
        if self.answer_prefix:
            messages.append(AIMessage(without_markers(self.answer_prefix)))
        return messages

    def completion_fields(self, model: ServedModel) -> dict[str, Any]:
        """The other fields of the request to ``/chat/completions`` by which this model is asked."""
        fields: dict[str, Any] = {"model": model.id, **self.sampling, **model.dialect.stream_fields}
        if self.answer_prefix:
            fields |= model.dialect.continue_fields
        if self.stop:
            fields["stop"] = list(self.stop)
        if self.max_output_tokens is not None:
            # vLLM refuses a limit that is larger than the context, which ends an answer anyway.
            fields["max_tokens"] = min(self.max_output_tokens, model.max_context_tokens or self.max_output_tokens)
        return fields
