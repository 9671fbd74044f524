import logging

import pytest

from foundation.correlation import set_request_id
from foundation.logs import configure_logging
from foundation.settings import LogSettings


def test_a_line_says_which_request_it_concerns(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        configure_logging("tests", LogSettings())
        set_request_id("abc-1")
        logging.getLogger("here").warning("odd")
        set_request_id(None)
        logging.getLogger("here").warning("even")
    finally:
        root.handlers[:], root.level = handlers, level
    first, second = capsys.readouterr().err.splitlines()
    assert first.endswith(" WARNING here request abc-1: odd")
    assert second.endswith(" WARNING here: even")
