"""What the fake model server answers, and how it misbehaves: decided by the question alone. See model_server.py."""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

PLAIN = ("mesh", "river", "stone", "lamp", "north", "paper", "seven", "glass", "field", "copper", "quiet", "harbor")
MIXED = (*PLAIN, "слово", "ответ", "שלום", "مرحبا", "你好", "e\u0301t\u00e9", "👩\u200d🚀", "🇫🇷", "line\nbreak", "«да»")

_DIRECTIVES = re.compile(r"\[\[(.*?)\]\]", re.DOTALL)


@dataclass(frozen=True)
class Script:
    """The directives of one question; unset ones come from the server's options."""

    tokens: int = 12
    delay: float = 0.0
    first: float = 0.0
    hold: int = -1
    words: str = "plain"
    echo: int = 0
    fault: str = ""
    at: int = -1
    times: int = -1
    retry_after: str = ""
    code: int = 500
    finish: str = ""
    manner: str = ""

    @property
    def fault_position(self) -> int:
        """Tokens written before a fault within the stream; half of them unless ``at`` says."""
        return self.tokens // 2 if self.at < 0 else self.at


def read_script(text: str, defaults: Script) -> Script:
    """The script in the text's ``[[…]]``. Raises ValueError for a directive that does not exist."""
    found = _DIRECTIVES.search(text)
    if found is None:
        return defaults
    types = {field.name: type(getattr(defaults, field.name)) for field in fields(Script)}
    values = {}
    for directive in found.group(1).split():
        name, _, value = directive.partition("=")
        if name not in types:
            raise ValueError(f"no such directive: {name}")
        values[name] = types[name](value)
    return replace(defaults, **values)


def question_of(text: str) -> str:
    """The text without directives: what the answer depends on and what the counters are kept by."""
    return _DIRECTIVES.sub("", text).strip()


def answer_tokens(text: str, script: Script) -> list[str]:
    """The tokens of the answer; a longer answer begins with the shorter one."""
    if script.echo:
        return re.findall(r"\s*\S+", "\n".join([question_of(text)] * script.echo))
    words = random.Random(question_of(text)).choices(MIXED if script.words == "mixed" else PLAIN, k=script.tokens)
    return [word if index == 0 else f" {word}" for index, word in enumerate(words)]


def expected_answer(text: str, defaults: Script | None = None) -> str:
    """What a server with these defaults answers to this question, uninterrupted."""
    return "".join(answer_tokens(text, read_script(text, defaults or Script())))


def continued(tokens: Sequence[str], prefix: str) -> list[str]:
    """The tokens that are left when the answer goes on from a prefix; all of them if it is not this answer's."""
    written = "".join(tokens)
    if not written.startswith(prefix):
        return [f" {token.strip()}" for token in tokens]
    left = []
    position = 0
    for token in tokens:
        position += len(token)
        if position > len(prefix):
            left.append(token[-min(len(token), position - len(prefix)) :])
    return left


def cut_at_stop(tokens: Sequence[str], stops: Sequence[str]) -> tuple[list[str], bool]:
    """The tokens before the first stop string, and whether there was one."""
    text = "".join(tokens)
    ends = [position for position in (text.find(stop) for stop in stops) if position >= 0]
    if not ends:
        return list(tokens), False
    room = min(ends)
    kept = []
    for token in tokens:
        if room <= 0:
            break
        kept.append(token[:room])
        room -= len(token)
    return kept, True
