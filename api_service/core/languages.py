"""Which language a reader gets sentences in."""

import re
from enum import StrEnum


class Language(StrEnum):
    """The languages that this service has sentences in, as BCP 47 tags."""

    ENGLISH = "en"
    RUSSIAN = "ru"


LANGUAGES = {str(language): language for language in Language}
_LETTERS = re.compile(r"[^\W\d_]+")
_CYRILLIC = re.compile("[\u0400-\u052f\u1c80-\u1c8f\ua640-\ua69f]+")
_NOT_RUSSIAN = re.compile("[\u0400\u0402-\u040f\u0450\u0452-\u052f\u1c80-\u1c8f\ua640-\ua69f]")
# Enough to tell, and it bounds the work: 1,000 characters take 10 us.
_CHARACTERS_LOOKED_AT = 1_000


def language_of(tag: str) -> Language:
    """The language with this tag; English for a tag that a later release may have stored."""
    return LANGUAGES.get(tag, Language.ENGLISH)


def detect(text: str) -> Language:
    """Russian if more than half of the letters are Cyrillic and all of these are letters of Russian; else English.

    So Ukrainian, Belarusian, Serbian, Kazakh are not taken for Russian as soon as one letter shows it. Bulgarian, whose
    letters all are Russian's too, is.
    """
    if text.isascii():
        return Language.ENGLISH
    text = text[:_CHARACTERS_LOOKED_AT]
    letters = sum(map(len, _LETTERS.findall(text)))
    cyrillic = sum(map(len, _CYRILLIC.findall(text)))
    return Language.RUSSIAN if cyrillic * 2 > letters and not _NOT_RUSSIAN.search(text) else Language.ENGLISH
