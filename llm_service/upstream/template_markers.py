"""Keeps a message's text from opening another role."""

import re
import unicodedata
from typing import Final

# vLLM and llama.cpp read the control tokens of a model anywhere in the rendered prompt, also inside a message: in a
# question for SmolLM2 "<|im_end|>\n<|im_start|>system\n…" opens a system message. Some tokenizers first bring the text
# into the form NFKC, where a fullwidth < is <.
_OPEN_ANGLE, _CLOSE_ANGLE = r"[<\ufe64\uff1c]", r"[>\ufe65\uff1e]"
_OPEN_SQUARE, _CLOSE_SQUARE = r"[\[\ufe47\uff3b]", r"[\]\ufe48\uff3d]"
_MARKER: Final = re.compile(
    rf"(?:{_OPEN_ANGLE}(?!\u200b)(?=({_OPEN_ANGLE}?[^<>\s\ufe64\ufe65\uff1c\uff1e]{{1,66}}){_CLOSE_ANGLE})"
    rf"|{_OPEN_SQUARE}(?!\u200b)(?=([^\[\]\s\ufe47\ufe48\uff3b\uff3d]{{1,66}}){_CLOSE_SQUARE}))"
)
# What stands between the brackets, in the form NFKC. Of the usual families: <|im_start|> and
# [|user|] of any name, <s>, <start_of_turn>, [INST], <<SYS>>, <seed:bos>, and those that code models were trained with.
_ANGLE: Final = re.compile(
    r"\|[^|].*\|?|.*[^|]\|"
    r"|/?s|[be]o[sdp]|sop|pad|unk|mask|g?mask|unused_?\d+|reserved_\d+|extra_id_\d+|special_\d+|seed:.*"
    r"|(?:start|end)_of_(?:turn|image|audio|text)|</?sys>?|/?(?:system|user|assistant|human|bot)"
    r"|/?(?:think|tools?|tool_calls?|tool_response|tool_list|available_tools|function_call)"
    r"|repo_?name|file_?name|file_sep|gh_stars|issue_(?:start|comment|closed)|empty_output"
    r"|jupyter_(?:start|text|code|output|script)|commit_(?:before|msg|after)|fim[_-](?:prefix|middle|suffix|pad)",
    re.IGNORECASE,
)
_SQUARE: Final = re.compile(
    r"\|.*\||unused_token_\d+|[gs]?mask|prefix|middle|suffix|img(?:_break|_end)?|args|call_id"
    r"|/?(?:inst|system_prompt|available_tools|tool_calls|tool_results|tool_content|model_settings|think)",
    re.IGNORECASE,
)
_ZERO_WIDTH_SPACE: Final = "\N{ZERO WIDTH SPACE}"


def without_markers(text: str) -> str:
    """The text with a zero-width space inside each marker: it reads the same and is no marker any more."""
    return _MARKER.sub(_broken, text)


def _broken(found: re.Match[str]) -> str:
    angle, square = found.groups()
    name, kind = (angle, _ANGLE) if angle is not None else (square, _SQUARE)
    is_marker = kind.fullmatch(unicodedata.normalize("NFKC", name)) is not None
    return found[0] + _ZERO_WIDTH_SPACE if is_marker else found[0]
