"""What the many words for the end of an answer mean.

- text-generation-inference: eos_token, stop_sequence, length (huggingface/text-generation-inference#1510, #2344).
- Ollama, llama-cpp-python, older llama.cpp: eos, limit, load, unload (openai/openai-dotnet#267).
- vLLM, SGLang: abort, error, repetition; SGLang's own API has objects as ``{"type": "length", "length": 16}``.
- TensorRT-LLM: timeout, cancelled, not_finished (``CompletionOutput.finish_reason``).
- LM Studio: eosFound, maxPredictedTokensReached, contextLengthReached, userStopped, modelUnloaded, failed.
- Mistral: model_length, error.
- Gateways to Anthropic: end_turn, stop_sequence, max_tokens, model_context_window_exceeded, pause_turn, refusal.
- Gateways to Gemini and Vertex AI: STOP, MAX_TOKENS, SAFETY, RECITATION, BLOCKLIST and others, also with the prefix
  FINISH_REASON_ (``Candidate.FinishReason``).
- Gateways to Bedrock: content_filtered, guardrail_intervened (``StopReason``).
- Gateways to Cohere: COMPLETE, ERROR_LIMIT, ERROR_TOXIC, USER_CANCEL, ERROR, TIMEOUT.
- DashScope: "null", as a text, while the answer goes on.
- DeepSeek: insufficient_system_resource. Zhipu: sensitive, network_error.

Tools are never offered, so that tool_calls and function_call are only the model's way to end.

A word that stands nowhere here is an end like any other: the text is whole, whatever it is called.
"""

from collections.abc import Mapping
from typing import Any, Final

STOP: Final = "stop"
LENGTH: Final = "length"
CONTENT_FILTER: Final = "content_filter"
TIME_LIMIT: Final = "time_limit"
BROKEN_OFF: Final = "broken_off"
"""The server says that it gave the answer up: it is not whole."""

_MEANINGS: Final[Mapping[str, str]] = {
    LENGTH: """
        length limit incomplete max_length max_tokens max_output_tokens max_new_tokens max_completion_tokens token_limit
        output_limit model_length context_length context_length_exceeded context_length_reached context_limit
        model_context_window_exceeded max_predicted_tokens_reached max_tokens_reached error_limit
    """,
    CONTENT_FILTER: """
        content_filter content_filtered content_filtering safety recitation blocklist prohibited_content spii language
        image_safety refusal sensitive guardrail_intervened guardrail error_toxic moderation content_policy_violation
        policy_violation blocked model_armor
    """,
    TIME_LIMIT: "time_limit timeout timed_out max_time deadline_exceeded",
    BROKEN_OFF: """
        abort aborted error failed failure cancel cancelled canceled user_cancel user_cancelled user_stopped interrupted
        server_error internal_error engine_error network_error insufficient_system_resource model_unloaded preempted
        preemption out_of_memory
    """,
    # Servers that put a word for "not yet" where OpenAI has null.
    "": "null none nil undefined unspecified not_finished unfinished in_progress continue running",
}
_WORDS: Final = {word.replace("_", ""): meaning for meaning, words in _MEANINGS.items() for word in words.split()}
_KEYS: Final = ("type", "reason", "finish_reason", "name", "value")


def meaning_of(finish_reason: Any) -> str:
    """STOP, LENGTH, CONTENT_FILTER, TIME_LIMIT or BROKEN_OFF; empty where the answer goes on."""
    if isinstance(finish_reason, str):
        word = "".join(filter(str.isalnum, finish_reason.lower())).removeprefix("finishreason")
        return _WORDS.get(word, STOP) if word else ""
    if isinstance(finish_reason, Mapping):
        return next(
            (meaning_of(finish_reason[key]) for key in _KEYS if finish_reason.get(key)), STOP if finish_reason else ""
        )
    if isinstance(finish_reason, list):
        return meaning_of(finish_reason[0]) if finish_reason else ""
    return STOP if finish_reason else ""
