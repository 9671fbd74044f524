"""What a model server means by a status, an error object or both, in the shapes of servers and gateways."""

import json
from typing import Any

import pytest

from llm_service.errors import Reason
from llm_service.upstream.refusals.classification import error_of_object, error_of_response

HTML = b"<!DOCTYPE html><html><head><title>400 Bad Request</title></head><body><center>nginx</center></body></html>"

REFUSED, TOO_LONG = Reason.REQUEST_REFUSED, Reason.CONTEXT_TOO_LONG
DENIED, OVERLOADED = Reason.MODEL_SERVER_DENIED, Reason.MODEL_SERVER_OVERLOADED
UNAVAILABLE, NOT_FOUND = Reason.MODEL_SERVER_UNAVAILABLE, Reason.MODEL_NOT_FOUND
INTERRUPTED = Reason.GENERATION_INTERRUPTED


def error(message: str, kind: str | None = "BadRequestError", **fields: object) -> bytes:
    return json.dumps({"error": {"message": message, "type": kind, **fields}}).encode()


def flat(**fields: object) -> bytes:
    return json.dumps(fields).encode()


# By status alone, or with what a proxy says: nothing is said against the question but by 413.
STATUSES = {
    Reason.REQUEST_REFUSED: {413},
    Reason.MODEL_SERVER_DENIED: {401, 402, 403, 407},
    Reason.MODEL_SERVER_OVERLOADED: {429, 529},
    Reason.GENERATION_INTERRUPTED: {500},
}


@pytest.mark.parametrize(
    "body",
    [b"", HTML, b"{}", b"[]", b"null", b"Bad Request", b'{"error": null}', b"\xff\xfe", b"upstream connect error"],
)
def test_a_status_that_says_nothing_against_the_question_is_waited_out(body: bytes) -> None:
    for status in (*range(100, 200), *range(201, 600), 999):
        told = error_of_response(status, {}, body)
        expected = next((reason for reason, those in STATUSES.items() if status in those), UNAVAILABLE)
        assert told.reason is expected, status
        assert told.engine_started is (status == 500)
        assert str(status) in told.message or told.reason is OVERLOADED
        assert told.why == told.message or told.reason is REFUSED


REQUESTS = [
    (400, error("temperature must be non-negative")),
    (400, error("This model does not support image input", "invalid_request_error")),
    (422, b'{"detail": "messages must not be empty"}'),
    (422, flat(detail=[{"type": "int_parsing", "loc": ["body", "n"], "msg": "not an integer", "input": "x"}])),
    (422, flat(error="Input validation error: `temperature` must be strictly positive", error_type="validation")),
    (400, flat(object="error", message="n must be 1", type="BadRequestError", code=400)),
    (422, flat(object="error", message={"detail": [{"loc": ["body", "stop"], "msg": "bad"}]}, code=None)),
    (400, flat(error={"code": 400, "message": "Invalid value", "status": "INVALID_ARGUMENT"})),
    (400, json.dumps([{"error": {"code": 400, "message": "Invalid value", "status": "INVALID_ARGUMENT"}}]).encode()),
    (400, error("The response was filtered", None, code="content_filter", status=400)),
    (400, error("no", None, code=None, innererror={"code": "ResponsibleAIPolicyViolation"})),
    (403, error("x requires moderation and your input was flagged", None, code=403, metadata={"reasons": ["hate"]})),
    (451, error("blocked", None, code="content_policy_violation")),
    (413, HTML),
    (413, b"length limit exceeded"),
    (413, error("Request too large for model `x` on tokens per minute (TPM): Limit 6000", "tokens")),
    (413, error("too large", "tokens", code="rate_limit_exceeded")),
    (429, error("Request too large for gpt-4o on tokens per min (TPM): Limit 30000, Requested 40000", "tokens")),
    (424, flat(ErrorCode="CLIENT_ERROR", OriginalStatusCode=400, OriginalMessage='{"error": "bad top_k"}')),
]


@pytest.mark.parametrize(("status", "body"), REQUESTS)
def test_what_names_the_request_as_the_cause_ends_it(status: int, body: bytes) -> None:
    told = error_of_response(status, {}, body)
    assert told.reason is REFUSED
    assert not told.engine_started


# In the words of vLLM, llama.cpp, TGI, SGLang, TensorRT-LLM, LM Studio, Ollama, and of services.
CONTEXTS = [
    "This model's maximum context length is 1024 tokens. However, you requested 2000 tokens.",
    "'max_tokens' or 'max_completion_tokens' is too large: 900. This model's maximum context length is 1024 tokens",
    "The decoder prompt (length 2000) is longer than the maximum model length of 1024.",
    "max_tokens=5000 cannot be greater than max_model_len=2048. Please request fewer output tokens.",
    "max_tokens must be at least 1, got -904.",
    "request (3031 tokens) exceeds the available context size (1024 tokens), try increasing it",
    "the request exceeds the available context size. try increasing the context size or enable context shift",
    "Context size has been exceeded.",
    "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 4000 `inputs` tokens and 512",
    "Input validation error: `inputs` must have less than 1024 tokens. Given: 2000",
    "The input (5000 tokens) is longer than the model's context length (4096 tokens).",
    "Requested token count exceeds the model's maximum context length of 4096 tokens.",
    "The sum of prompt length (72417.0), query length (0) should not exceed max_num_tokens (69632)",
    "Trying to keep the first 5000 tokens when context the overflows. However, the model is loaded with less.",
    "The number of tokens to keep from the initial prompt is greater than the context length",
    "prompt too long; exceeded max context length by 17 tokens",
    "Prompt contains 40000 tokens and 0 draft tokens, too large for model with 32768 maximum context length",
    "This endpoint's maximum context length is 8192 tokens. However, you requested about 12000 tokens",
    "litellm.ContextWindowExceededError: AzureException - too many",
    "prompt is too long: 213462 tokens > 200000 maximum",
    "Input is too long for requested model.",
    "The input token count (1196265) exceeds the maximum number of tokens allowed (1048575)",
    "This model's maximum prompt length is 131072 but the request contains 537812 tokens",
    "Please reduce the length of the messages or completion",
]


@pytest.mark.parametrize("said", CONTEXTS)
def test_a_context_that_is_too_short_is_told_in_every_vendors_words(said: str) -> None:
    bodies: list[tuple[int, bytes]] = [
        (400, error(said)),
        (400, error(said, "invalid_request_error", code="400")),
        (400, flat(object="error", message=said, type="BadRequestError", code=400)),
        (400, flat(error=said)),
        (400, flat(detail=said)),
        (400, said.encode()),
        (422, flat(error=said, error_type="validation")),
        (413, error(said)),
        (500, error(said, "server_error", code=500)),
        (400, error("Provider returned error", None, code=400, metadata={"raw": error(said).decode()})),
        (424, flat(ErrorCode="CLIENT_ERROR", OriginalStatusCode=400, OriginalMessage=said)),
    ]
    for status, body in bodies:
        told = error_of_response(status, {}, body)
        assert told.reason is TOO_LONG, body
        assert not told.engine_started
        assert [violation.field for violation in told.violations] == ["spec.messages"]
    events: list[dict[str, Any]] = [
        {"message": said},
        {"message": said, "code": 400},
        {"message": said, "code": "400", "type": "invalid_request_error"},
        {"message": said, "code": 500, "type": "server_error"},
        {"message": said, "http_status_code": 422},
        {"error": said, "error_type": "validation"},
        {"error": {"message": said, "code": None}},
    ]
    for event in events:
        assert error_of_object(None, event).reason is TOO_LONG, event


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("exceed_context_size_error", 400),
        ("invalid_request_error", "context_length_exceeded"),
        (None, "model_context_window_exceeded"),
        (None, "context_length_exceeded"),
    ],
)
def test_a_word_alone_tells_it_too(kind: str | None, code: object) -> None:
    assert error_of_response(400, {}, error("Please shorten it.", kind, code=code)).reason is TOO_LONG
    assert error_of_object(None, {"message": "Please shorten it.", "type": kind, "code": code}).reason is TOO_LONG


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        # Overload, by whatever number
        (
            429,
            error("Rate limit reached for gpt-4o on tokens per min", "tokens", code="rate_limit_exceeded"),
            OVERLOADED,
        ),
        (400, error("slow down", None, code="rate_limit_exceeded"), OVERLOADED),
        (403, error("slow down", "rate_limit_error"), OVERLOADED),
        (500, flat(error="Model is overloaded", error_type="overloaded"), OVERLOADED),
        (503, error("The engine is currently busy and cannot accept new requests."), OVERLOADED),
        (503, error("The engine has reached its prefill token backlog limit."), OVERLOADED),
        (503, error("The request queue is full."), OVERLOADED),
        (503, flat(error="server busy, please try again.  maximum pending requests exceeded"), OVERLOADED),
        (529, flat(type="error", error={"type": "overloaded_error", "message": "Overloaded"}), OVERLOADED),
        (429, flat(statusCode=429, message="Rate limit is exceeded. Try again in 9 seconds."), OVERLOADED),
        (429, flat(object="error", message="Service tier capacity exceeded", code="3505"), OVERLOADED),
        (400, error("litellm.RateLimitError: slow down", None, code="400"), OVERLOADED),
        (429, error("quota", None, code=429, status="RESOURCE_EXHAUSTED"), OVERLOADED),
        # Credentials and accounts
        (401, error("bad key"), DENIED),
        (403, HTML, DENIED),
        (400, error("API key not valid. Please pass a valid API key.", None, code=400), DENIED),
        (400, error("no", None, code=400, details=[{"reason": "API_KEY_INVALID"}]), DENIED),
        (400, error("Your credit balance is too low to access the API", "invalid_request_error"), DENIED),
        (429, error("You exceeded your current quota", "insufficient_quota", code="insufficient_quota"), DENIED),
        (400, error("Your organization must be verified to stream this model.", param="stream"), DENIED),
        # A model that is not served
        (404, error("The model `x` does not exist.", "NotFoundError"), NOT_FOUND),
        (404, flat(object="error", message="The model `x` does not exist.", type="NotFoundError"), NOT_FOUND),
        (404, flat(error="model 'x' not found, try pulling it first"), NOT_FOUND),
        (404, error("The API deployment for this resource does not exist.", code="DeploymentNotFound"), NOT_FOUND),
        (404, error("No endpoints found for x/y.", None, code=404), NOT_FOUND),
        (400, error("/chat/completions: Invalid model name passed in model=x. Call `/v1/models`", None), NOT_FOUND),
        (400, error("Model Not Exist", "invalid_request_error"), NOT_FOUND),
        (400, flat(object="error", message="Invalid model: x", type="invalid_model", code="1500"), NOT_FOUND),
        # A path that is not there
        (404, error("File Not Found", "not_found_error"), UNAVAILABLE),
        (404, b'{"detail":"Not Found"}', UNAVAILABLE),
        (404, b"404 page not found", UNAVAILABLE),
        (404, flat(timestamp="2026", status=404, error="Not Found", path="/models"), UNAVAILABLE),
        (404, error("Invalid URL (POST /models/chat/completions)", "invalid_request_error"), UNAVAILABLE),
        (405, flat(detail="Method Not Allowed"), UNAVAILABLE),
        # Up, and not serving yet
        (503, error("Loading model", "unavailable_error"), UNAVAILABLE),
        (404, error("No models loaded. Please load a model.", code="model_not_found", param="model"), UNAVAILABLE),
        (400, flat(error="Model unloaded."), UNAVAILABLE),
        (503, flat(error="Model x/y is currently loading", estimated_time=20.0), UNAVAILABLE),
        (500, flat(error="model requires more system memory (5.6 GiB) than is available (4.1 GiB)"), UNAVAILABLE),
        (500, error("EngineCore encountered an issue. See stack trace"), UNAVAILABLE),
        (424, flat(error="dependency", code="424"), UNAVAILABLE),
        (503, error("no channel for x", "new_api_error", code="model_not_found"), UNAVAILABLE),
        (400, flat(message="Bad Request"), UNAVAILABLE),
        (422, flat(detail="Unprocessable Entity"), UNAVAILABLE),
        (400, flat(error={"code": 400}), UNAVAILABLE),
        (400, b"The plain HTTP request was sent to HTTPS port", UNAVAILABLE),
        (400, b"Client sent an HTTP request to an HTTPS server.", UNAVAILABLE),
        (400, b"Invalid HTTP request received.", UNAVAILABLE),
        (429, b"error code: 1015", OVERLOADED),
        # What settings or the server have to say otherwise
        (400, flat(object="error", message="System role not supported", type="BadRequestError", code=400), UNAVAILABLE),
        (500, error("Conversation roles must alternate user/assistant/user/assistant/..."), UNAVAILABLE),
        (400, error("As of transformers v4.44, default chat template is no longer allowed"), UNAVAILABLE),
        (404, error("This is not a chat model and thus not supported in the v1/chat/completions"), UNAVAILABLE),
        # The server took it up and failed
        (500, error("CUDA error"), INTERRUPTED),
        (
            424,
            flat(error="Request failed during generation: index 1 is out of bounds", error_type="generation"),
            INTERRUPTED,
        ),
        (500, flat(error="Incomplete generation", error_type="incomplete_generation"), INTERRUPTED),
        (400, flat(error="The model has crashed without additional information. (Exit code: 6)"), INTERRUPTED),
    ],
)
def test_an_answer_is_understood(status: int, body: bytes, reason: Reason) -> None:
    told = error_of_response(status, {}, body)
    assert told.reason is reason
    assert told.engine_started is (reason is INTERRUPTED)
    assert not told.violations


@pytest.mark.parametrize(
    ("code", "event", "reason"),
    [
        (None, {"error": "Model is overloaded", "error_type": "overloaded"}, OVERLOADED),
        (None, {"error": "bad", "error_type": "validation"}, REFUSED),
        (None, {"error": "index", "error_type": "generation"}, INTERRUPTED),
        (None, {"error": "end", "error_type": "incomplete_generation"}, INTERRUPTED),
        ("overloaded_error", {"message": "Overloaded"}, OVERLOADED),
        (None, {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}, OVERLOADED),
        ("rate_limit_exceeded", {"message": "slow down"}, OVERLOADED),
        (429, {"message": "slow down"}, OVERLOADED),
        ("429", {"message": "slow down"}, OVERLOADED),
        (429.0, {"message": "slow down"}, OVERLOADED),
        (None, {"message": "slow down", "code": "429"}, OVERLOADED),
        (None, {"message": "Too many", "http_status_code": 429}, OVERLOADED),
        (503, {"message": "The engine is currently busy.", "type": "InternalServerError"}, OVERLOADED),
        (503, {"message": "down"}, UNAVAILABLE),
        ("service_unavailable", {"message": "down"}, UNAVAILABLE),
        ("timeout", {"message": "Upstream idle timeout"}, UNAVAILABLE),
        (401, {"message": "no"}, DENIED),
        ("invalid_api_key", {"message": "no", "type": "invalid_request_error"}, DENIED),
        (400, {"message": "no"}, REFUSED),
        ("400", {"message": "no"}, REFUSED),
        ("invalid_request_error", {"message": "no"}, REFUSED),
        (None, {"code": 400, "message": "no", "status": "INVALID_ARGUMENT"}, REFUSED),
        (None, {"message": "no", "status": "INVALID_ARGUMENT"}, REFUSED),
        ("content_filter", {"message": "no", "innererror": {"code": "ResponsibleAIPolicyViolation"}}, REFUSED),
        ("model_not_found", {"message": "no"}, NOT_FOUND),
        (404, {"message": "Model m not found"}, NOT_FOUND),
        (None, {"message": "model 'x' not found"}, NOT_FOUND),
        ("server_error", {"message": "no"}, INTERRUPTED),
        (500, {"message": "no"}, INTERRUPTED),
        (502, {"message": "Provider returned error"}, UNAVAILABLE),
        ("3505", {"message": "no"}, INTERRUPTED),
        (None, {"message": "something odd"}, INTERRUPTED),
        (None, {}, INTERRUPTED),
        (True, {"message": ["not", "text"], "code": {"a": 1}, "type": None, "detail": 3}, INTERRUPTED),
    ],
)
def test_an_error_is_what_it_says_beside_the_status_200(code: Any, event: dict[str, Any], reason: Reason) -> None:
    told = error_of_object(code, event)
    assert told.reason is reason
    assert told.engine_started is (reason is INTERRUPTED)


FIELDS = [
    # vLLM of 2024, as Python writes it; FastAPI; Mistral
    (400, error("[{'type': 'extra_forbidden', 'loc': ('body', '%s'), 'msg': 'Extra inputs', 'input': {}}]")),
    (422, flat(detail=[{"type": "extra_forbidden", "loc": ["body", "%s"], "msg": "Extra inputs", "input": {}}])),
    (422, flat(object="error", message={"detail": [{"type": "extra_forbidden", "loc": ["body", "%s"], "msg": "no"}]})),
    # OpenAI, Groq, llama-cpp-python, TGI, Azure
    (400, error("Unrecognized request argument supplied: %s", "invalid_request_error")),
    (400, error("Unknown parameter: '%s'.", "invalid_request_error", param="%s", code="unknown_parameter")),
    (400, error("property '%s' is unsupported", "invalid_request_error")),
    (500, error("create_chat_completion() got an unexpected keyword argument '%s'", "internal_server_error")),
    (422, b"Failed to deserialize the JSON body into the target type: unknown field `%s`, expected one of"),
    (400, flat(detail="Additional properties are not allowed ('%s' was unexpected)")),
]


@pytest.mark.parametrize(
    "field", ["stream_options", "continuous_usage_stats", "timings_per_token", "continue_final_message", "max_tokens"]
)
@pytest.mark.parametrize(("status", "body"), FIELDS)
def test_a_field_of_ours_that_is_not_known_is_named(status: int, body: bytes, field: str) -> None:
    told = error_of_response(status, {}, body.replace(b"%s", field.encode()))
    assert told.unsupported == {field}


def test_the_other_name_of_the_limit_is_asked_for() -> None:
    said = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
    told = error_of_response(
        400, {}, error(said, "invalid_request_error", param="max_tokens", code="unsupported_parameter")
    )
    assert told.unsupported == {"max_tokens"}


@pytest.mark.parametrize("said", [*CONTEXTS, "max_tokens must be at least 1", "temperature is not supported"])
def test_a_value_that_is_wrong_is_no_unknown_field(said: str) -> None:
    assert not error_of_response(400, {}, error(said)).unsupported


@pytest.mark.parametrize(
    ("status", "body", "remedy"),
    [
        (404, b'{"detail":"Not Found"}', "ASKMESH_MODEL_URL ends with /v1"),
        (405, b"", "ASKMESH_MODEL_URL"),
        (307, b"", "ASKMESH_MODEL_URL"),
        (401, b"", "ASKMESH_MODEL_API_KEY"),
        (402, b"", "credit"),
        (407, b"", "proxy"),
        (400, b"Client sent an HTTP request to an HTTPS server.", "https://"),
        (400, error("System role not supported"), "ASKMESH_SYSTEM_PROMPT"),
        (400, error("default chat template is no longer allowed"), "chat template"),
    ],
)
def test_the_remedy_is_told(status: int, body: bytes, remedy: str) -> None:
    assert remedy in error_of_response(status, {}, body).why


def test_a_message_is_shortened() -> None:
    assert len(error_of_response(400, {}, error("x" * 10_000)).message) <= 200


def test_a_prompt_in_a_validation_error_is_not_passed_on() -> None:
    said = (
        "[{'type': 'int_parsing', 'loc': ('body', 'n'), 'msg': 'not an integer', 'input': {'messages': 'my secret'}}]"
    )
    message = error_of_response(400, {}, error(said)).message
    assert "not an integer" in message
    assert "secret" not in message
    said = "1 validation error:\n  {'type': 'float_parsing', 'msg': 'not a number', 'input': 'my secret'}"
    assert error_of_response(400, {}, error(said)).message.endswith("'msg': 'not a number'")
    problems = [{"type": "int_parsing", "loc": ["body", "n"], "msg": "not an integer", "input": "my secret"}]
    assert "secret" not in error_of_response(422, {}, flat(detail=problems)).message


@pytest.mark.parametrize("status", [200, 307, 400, 401, 404, 413, 422, 424, 429, 451, 500, 503])
@pytest.mark.parametrize(
    "shape",
    [
        lambda said: error(said, "invalid_request_error"),
        lambda said: error("no", said, code=said),
        lambda said: flat(error=said),
        lambda said: flat(detail=[{"loc": ["body", said], "msg": said, "type": "x", "ctx": {"given": said}}]),
        lambda said: flat(object="error", message=said, param=said),
        lambda said: said.encode(),
        lambda said: error("model " + said + " is not found", None, code=404),
    ],
)
def test_what_a_log_may_say_holds_nothing_of_the_servers_text(status: int, shape: Any) -> None:
    told = error_of_response(status, {}, shape("What does my secret mean?"))
    assert "secret" not in told.why
    if told.reason not in (REFUSED, TOO_LONG):
        assert "secret" not in told.message
    elif told.reason is REFUSED:
        assert str(status) in told.why


def test_a_refusal_that_is_deep_or_long_is_read_in_no_time() -> None:
    deep: object = "end"
    for _ in range(200):
        deep = {"error": deep, "message": deep}
    assert error_of_response(400, {}, json.dumps({"error": [{"message": "x"}] * 5_000}).encode()).reason is REFUSED
    nested: object = {"message": "x"}
    for _ in range(100):
        nested = {"error": nested}
    assert error_of_response(400, {}, json.dumps(nested).encode()).reason in (REFUSED, UNAVAILABLE)
    assert error_of_response(500, {}, error("model " * 10_000)).reason is INTERRUPTED
