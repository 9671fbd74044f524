"""Which language a reader asks for."""

import re
from functools import lru_cache

from api_service.core.languages import LANGUAGES, Language

# RFC 9110, section 12.4.2: at most three decimals, and nothing above 1.
_RANGE = re.compile(r"([A-Za-z]{1,8}(?:-[A-Za-z0-9]{1,8})*|\*)(?:[ \t]*;[ \t]*[Qq]=(0(?:\.\d{0,3})?|1(?:\.0{0,3})?))?")
# Browsers send 20 to 100 characters. What stands behind is not looked at.
_HEADER_CHARACTERS = 500


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
        language = LANGUAGES.get(tag.split("-", 1)[0])
        if weight > 0 and language is not None:
            return language
    return None
