"""When two questions are the same question."""

import hashlib
import json
import unicodedata

from foundation.settings import GenerationSettings


def normalise(question_text: str) -> str:
    """The text that is asked: NFC, line ends as LF, blank ends stripped, and nothing more.

    Case, punctuation and inner white space can change what is meant, so they stay.
    """
    return unicodedata.normalize("NFC", question_text.replace("\r\n", "\n")).strip()


def answer_key(scope: str, question_text: str, generation: GenerationSettings) -> bytes:
    """SHA-256 of all that decides an answer: who may share it, the model, its sampling, the prompt, the text."""
    parts = [
        scope,
        generation.model_name,
        generation.system_prompt,
        repr(generation.temperature),
        str(generation.max_output_tokens),
        repr(generation.max_generation_seconds),
        normalise(question_text),
    ]
    # JSON keeps the parts apart: ("a", "bc") and ("ab", "c") differ.
    return hashlib.sha256(json.dumps(parts, ensure_ascii=False).encode()).digest()
