"""Settings that are each valid and do not fit together."""

from collections.abc import Iterator

from foundation.settings import ApiSettings, GenerationSettings, QuestionSettings

# The most that a character takes in a JSON body: an escaped pair of surrogates, for 12 bytes.
_BYTES_A_CHARACTER = 12


def of_times(generation: GenerationSettings, questions: QuestionSettings) -> Iterator[str]:
    """What does not fit between how long answers are generated and how long questions wait, with the remedy."""
    if generation.max_generation_seconds > questions.max_wait_seconds:
        yield (
            f"ASKMESH_MAX_GENERATION_SECONDS is {generation.max_generation_seconds:g} and ASKMESH_MAX_WAIT_SECONDS"
            f" {questions.max_wait_seconds:g}: answers are cut when their questions expire; raise the latter"
        )


def of_sizes(api: ApiSettings, questions: QuestionSettings) -> Iterator[str]:
    """What does not fit between the longest question and the largest body, with the remedy."""
    needed = questions.max_question_characters
    if needed > api.max_body_bytes:
        yield (
            f"ASKMESH_MAX_QUESTION_CHARACTERS is {needed} and ASKMESH_MAX_BODY_BYTES {api.max_body_bytes}: no question"
            f" of that length fits; raise the latter, a character takes up to {_BYTES_A_CHARACTER} bytes"
        )
