"""Which language a reader gets sentences in."""

import re
from enum import StrEnum
from functools import lru_cache


class Language(StrEnum):
    """The languages that this service has sentences in, as BCP 47 tags."""

    ENGLISH = "en"
    RUSSIAN = "ru"


def language_of(tag: str) -> Language:
    """The language with this tag; English for a tag that a later release may have stored."""
    return _LANGUAGES.get(tag, Language.ENGLISH)


_LANGUAGES = {str(language): language for language in Language}


_LETTERS = re.compile(r"[^\W\d_]+")
_CYRILLIC = re.compile("[\u0400-\u052f\u1c80-\u1c8f\ua640-\ua69f]+")
_NOT_RUSSIAN = re.compile("[\u0400\u0402-\u040f\u0450\u0452-\u052f\u1c80-\u1c8f\ua640-\ua69f]")
# Enough to tell, and it bounds the work: 1,000 characters take 10 us.
_CHARACTERS_LOOKED_AT = 1_000

# RFC 9110, section 12.4.2: at most three decimals, and nothing above 1.
_RANGE = re.compile(r"([A-Za-z]{1,8}(?:-[A-Za-z0-9]{1,8})*|\*)(?:[ \t]*;[ \t]*[Qq]=(0(?:\.\d{0,3})?|1(?:\.0{0,3})?))?")
# Browsers send 20 to 100 characters. What stands behind is not looked at.
_HEADER_CHARACTERS = 500


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


def preferred(accept_language: str) -> Language | None:
    """The language that an Accept-Language header asks for, by the look-up of RFC 4647, section 3.4.

    None if it asks for none of ours: it is empty, names other languages only, or takes any (``*``).
    """
    return _preferred(accept_language[:_HEADER_CHARACTERS])


@lru_cache(maxsize=256)
def _preferred(accept_language: str) -> Language | None:
    matches = (_RANGE.fullmatch(item.strip(" \t")) for item in accept_language.split(","))
    ranges = [(float(match[2] or 1), match[1].lower()) for match in matches if match]
    # Sorting is stable: of equal weights the first counts.
    for weight, tag in sorted(ranges, key=lambda item: -item[0]):
        # Cutting subtags off the end (ru-RU-x-a, ru-RU, ru) can only ever arrive at the first of ours.
        language = _LANGUAGES.get(tag.split("-", 1)[0])
        if weight > 0 and language is not None:
            return language
    return None
