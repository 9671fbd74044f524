"""The words by which model servers and gateways say what is wrong: texts, codes and types, each with its source."""

import enum
import re
from collections.abc import Mapping
from typing import Final


class ErrorKind(enum.Enum):
    """What an error speaks of; those that say least against the request come first."""

    OVERLOADED = enum.auto()
    DENIED = enum.auto()
    UNAVAILABLE = enum.auto()
    CONTENT = enum.auto()
    TOO_LONG = enum.auto()
    MODEL = enum.auto()
    REQUEST = enum.auto()
    FAILED = enum.auto()


URL_REMEDY: Final = "check that ASKMESH_MODEL_URL ends with /v1, where /models and /chat/completions begin"
KEY_REMEDY: Final = "check ASKMESH_MODEL_API_KEY"
ACCOUNT_REMEDY: Final = "the account has no credit left"
_SYSTEM_REMEDY: Final = "System role not supported by the model: set ASKMESH_SYSTEM_PROMPT to an empty value"
_TEMPLATE_REMEDY: Final = "there is no chat template: give the model server one, or name a chat model"


def _any(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(patterns), re.IGNORECASE)


CONTEXT: Final = _any(
    # vLLM: "This model's maximum context length is 1024 tokens …", "The decoder prompt (length 2000) is longer than the
    # maximum model length of 1024 …", "max_tokens=5000 cannot be greater than max_model_len=2048 …"; OpenAI, DeepSeek,
    # OpenRouter, SGLang and Mistral ("… too large for model with 32768 maximum context length") say it so, too.
    r"max(imum)? (context|model|prompt|sequence) length",
    r"max_model_len",
    # vLLM before 0.6, where the prompt alone is too long.
    r"max_tokens must be at least 1, got -",
    # llama.cpp: "the request exceeds the available context size …", "Context size has been exceeded."
    r"context[_ ]?(size|length|window|limit)",
    r"exceed_context_size",
    r"\bn_ctx\b",
    # Groq says "Please reduce the length of the messages or completion."
    r"reduce the length of",
    # LM Studio: "Trying to keep the first 5000 tokens when context the overflows …"
    r"when context (the )?overflows",
    r"tokens to keep from the initial prompt",
    # text-generation-inference, Together: "`inputs` tokens + `max_new_tokens` must be <= 4096. …"
    r"`?inputs`? tokens \+ `?max_new_tokens`? must be",
    r"`inputs` must have less than",
    # TensorRT-LLM: "The sum of prompt length (72417.0), query length (0) should not exceed max_num_tokens (69632)"
    r"should not exceed max_num_tokens",
    r"max_seq_len",
    r"maximum (allowed )?input length",
    # Ollama: "prompt too long; exceeded max context length by 5 tokens"; Anthropic: "prompt is too long: 213462 tokens
    # > 200000 maximum"; Bedrock: "Input is too long for requested model."
    r"(prompt|input)( is)? too long",
    # Zhipu, Google, Cohere, Kimi, Qwen, Copilot
    r"prompt exceeds max length",
    r"exceeds the maximum number of tokens",
    r"too many tokens",
    r"exceeded model token limit",
    r"range of input length",
    r"(prompt|input) token count .*exceeds",
)
# A limit of tokens in a minute (OpenAI, Groq) is not the context.
PER_MINUTE: Final = _any(r"per[- ](minute|min|hour|day)\b", r"\b[TR]P[MD]\b", r"rate[- _]?limit", r"quota")

PHRASES: Final[tuple[tuple[re.Pattern[str], ErrorKind, str], ...]] = (
    # OpenAI with 429, Groq with 413: one request above the limit of a minute, so that it never passes.
    (_any(r"request too large for "), ErrorKind.REQUEST, ""),
    (
        _any(
            # vLLM beyond --max-num-queued-reqs: "The engine is currently busy and cannot accept new requests. …", and
            # beyond --max-num-queued-tokens: "The engine has reached its prefill token backlog limit. …", with 503.
            r"engine (is currently busy|has reached its prefill)",
            # SGLang says "The request queue is full.", Ollama "server busy, please try again.", TGI "Model is
            # overloaded".
            r"queue is full",
            r"server (is )?busy",
            r"is overloaded",
        ),
        ErrorKind.OVERLOADED,
        "",
    ),
    # vLLM between the death of its engine and its own end. What the engine had taken up before has had its HTTP 200 and
    # breaks off in the stream.
    (_any(r"EngineCore encountered an issue"), ErrorKind.UNAVAILABLE, "its engine has died"),
    (
        _any(
            # LM Studio: "No models loaded. …", "Model unloaded."; llama.cpp: "Loading model"; Hugging Face: "Model x is
            # currently loading"; Ollama: "model requires more system memory …".
            r"no models? (is |are )?loaded",
            r"\bmodel (is |has been )?unloaded",
            r"loading model",
            r"\bmodel .{0,80}\bis (currently |still )?loading",
            r"\bmodel .{0,80}\bnot (yet )?(loaded|ready)",
            r"failed to load",
            r"requires more (system )?memory",
        ),
        ErrorKind.UNAVAILABLE,
        "it has not loaded the model",
    ),
    # LM Studio, Ollama
    (_any(r"model has crashed", r"runner process has terminated"), ErrorKind.FAILED, ""),
    # nginx says "The plain HTTP request was sent to HTTPS port", Go "Client sent an HTTP request to an HTTPS server."
    (
        _any(r"HTTP request (was sent )?to (an )?HTTPS"),
        ErrorKind.UNAVAILABLE,
        "ASKMESH_MODEL_URL must begin with https://",
    ),
    (
        # Gemma 2, Mistral 7B v0.1 and their like, by their chat templates: "System role not supported", "Conversation
        # roles must alternate user/assistant/…", "Only user and assistant roles are supported!".
        _any(
            r"system (role|message|prompt)s? (is |are )?(not |un)supported",
            r"does ?n.t support (the )?system|does not support (the )?system",
            r"roles must alternate",
            r"only user.{0,20} assistant .{0,20}roles",
        ),
        ErrorKind.UNAVAILABLE,
        _SYSTEM_REMEDY,
    ),
    (
        _any(
            # vLLM: "As of transformers v4.44, default chat template is no longer allowed, so you must provide a chat
            # template"; TGI: "Template error: template not found".
            r"chat[_ ]template is (no longer allowed|not|missing)",
            r"provide a chat[_ ]template",
            r"template not found",
            # OpenAI: "This is not a chat model …"; Ollama: '"nomic-embed-text" does not support chat'.
            r"not a chat model",
            r"does not support chat",
        ),
        ErrorKind.UNAVAILABLE,
        _TEMPLATE_REMEDY,
    ),
    (
        # Google, with 400: "API key not valid. …"
        _any(r"api[ _-]?key (is )?(not valid|invalid|expired|not found)", r"(invalid|incorrect) api[ _-]?key"),
        ErrorKind.DENIED,
        KEY_REMEDY,
    ),
    # Anthropic, with 400: "Your credit balance is too low …"
    (_any(r"credit balance", r"insufficient (balance|credits?|funds)"), ErrorKind.DENIED, ACCOUNT_REMEDY),
    # OpenAI, with 400: "Your organization must be verified to stream this model."
    (_any(r"must be verified to"), ErrorKind.DENIED, "the organisation that the key belongs to must be verified"),
    # OpenRouter, with 403: "… requires moderation and your input was flagged …"; Azure, with 400.
    (_any(r"input was flagged", r"content management policy", r"content policy"), ErrorKind.CONTENT, ""),
)

_NAMES: Final[Mapping[ErrorKind, str]] = {
    # OpenAI, LiteLLM, Anthropic, TGI, Google, Bedrock, Mistral, Moonshot, Databricks
    ErrorKind.OVERLOADED: """
        rate_limit_exceeded rate_limit_error rate_limit rate_limited rate_limit_reached too_many_requests overloaded
        overloaded_error engine_overloaded engine_overloaded_error server_overloaded model_overloaded resource_exhausted
        throttling_exception throttling service_tier_capacity_exceeded capacity_exceeded request_limit_exceeded
        quota_exceeded server_busy queue_full no_capacity""",
    ErrorKind.DENIED: """
        authentication_error invalid_api_key api_key_invalid unauthenticated unauthorized permission_error
        permission_denied permission_denied_error access_denied access_denied_exception forbidden billing_error
        billing_hard_limit_reached insufficient_quota insufficient_balance insufficient_credits payment_required
        invalid_authentication invalid_authentication_error exceeded_current_quota_error""",
    ErrorKind.UNAVAILABLE: """
        service_unavailable service_unavailable_error unavailable unavailable_error model_not_ready
        model_not_ready_exception model_loading not_ready no_available_server bad_gateway gateway_timeout timeout
        timeout_error request_timeout deadline_exceeded cancelled api_connection_error connection_error
        model_timeout_exception engine_dead_error conflict aborted""",
    ErrorKind.CONTENT: """
        content_filter content_policy_violation content_policy_violation_error responsible_ai_policy_violation
        data_inspection_failed moderation_blocked invalid_prompt""",
    # OpenAI, llama.cpp, LiteLLM, Zhipu, Copilot
    ErrorKind.TOO_LONG: """
        context_length_exceeded exceed_context_size_error context_window_exceeded context_window_exceeded_error
        model_context_window_exceeded prompt_too_long string_above_max_length model_max_prompt_tokens_exceeded""",
    # OpenAI, Azure, Mistral, Groq
    ErrorKind.MODEL: """
        model_not_found model_not_found_error deployment_not_found unknown_model invalid_model model_decommissioned""",
    # OpenAI, vLLM, Google, TGI, Bedrock
    ErrorKind.REQUEST: """
        invalid_request_error invalid_request bad_request bad_request_error invalid_argument validation validation_error
        validation_exception request_validation_error unprocessable_entity unprocessable_entity_error value_error
        request_too_large failed_precondition out_of_range""",
    # vLLM, llama.cpp, Anthropic, TGI, SageMaker
    ErrorKind.FAILED: """
        internal_server_error internal_error internal server_error api_error generation incomplete_generation
        generation_error model_error model_error_exception unknown""",
}
WORDS: Final[Mapping[str, ErrorKind]] = {name: kind for kind, names in _NAMES.items() for name in names.split()}

# An error of 404 that speaks of a model, and not of a path, as "/v1/models"; the last is OpenRouter's.
MODEL: Final = _any(r"(?<![/\w])(models?|deployment)\b", r"no endpoints found")
# With 400, LiteLLM says "Invalid model name passed in model=…", DeepSeek "Model Not Exist", OpenRouter "… is not a
# valid model ID".
UNSERVED: Final = _any(
    r"invalid model\b", r"unknown model\b", r"not a valid model", r"\bmodel\b.{0,80}\b(not found|not exist)"
)

OWN_FIELDS: Final = (
    "continuous_usage_stats",
    "stream_options",
    "timings_per_token",
    "continue_final_message",
    "add_generation_prompt",
)
"""Fields that llm_service sends by itself. A server that names one in a refusal does not know it: FastAPI
(``extra_forbidden``), OpenAI ("Unrecognized request argument supplied: …"), Groq ("property … is unsupported"), TGI
("unknown field …"), llama-cpp-python ("got an unexpected keyword argument …")."""

# OpenAI says "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens'
# instead."
MAX_TOKENS_UNKNOWN: Final = _any(
    r"max_completion_tokens\W+instead",
    r"max_tokens\W+(is |was )?(not supported|unsupported|unexpected|not permitted)",
    r"(unsupported|unknown|unrecognized|unexpected)[^.]{0,40}\Wmax_tokens\b",
)
