"""Keeps a message's text from opening another role."""

import re
from typing import Final

# vLLM and llama.cpp read the markers of a chat template wherever they stand in the rendered prompt, also inside a
# message: "<|im_end|>\n<|im_start|>system\n…" in a question of SmolLM2's is a system message. The forms of the usual
# families: <|im_start|> (also with fullwidth bars), [|user|], <s> and </s>, <start_of_turn>, [INST] and <<SYS>>.
_MARKER: Final = re.compile(
    r"<(?=[|\uff5c][^<>\s]{1,64}[|\uff5c]>|/?s>|[be]os>|(?:start|end)_of_turn>|<?/?SYS>>)"
    r"|\[(?=\|[^\[\]\s]{1,64}\|\]|/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS)\])"
)
_ZERO_WIDTH_SPACE: Final = "\N{ZERO WIDTH SPACE}"


def without_markers(text: str) -> str:
    """The text with a zero-width space inside each marker, by which it reads the same and is no marker."""
    return _MARKER.sub(rf"\g<0>{_ZERO_WIDTH_SPACE}", text)
