"""What strangers send cannot forge a line of the log."""

import io
import logging
import subprocess
import sys
import textwrap

import pytest

from foundation.logs import SafeFormatter, trace_of

UNSAFE = {
    "a line": "\n",
    "a carriage return": "\r",
    "nothing": "\x00",
    "a bell": "\x07",
    "a backspace": "\x08",
    "a tab": "\t",
    "a form feed": "\x0c",
    "a colour": "\x1b[31m",
    "delete": "\x7f",
    "the next line": "\x85",
    "a control sequence": "\x9b2J",
    "a line separator": "\u2028",
    "a paragraph separator": "\u2029",
    "letters turned round": "\u202e",
    "an isolate": "\u2067",
    "half of a pair": "\ud83d",
    "a byte that is no UTF-8": b"\xff".decode(errors="surrogateescape"),
}
FORGED = "2026-01-01 00:00:00,000 api_service[1] ERROR root: all is lost"


def logged(message: str, *arguments: object, **how: object) -> str:
    """What a process writes for it."""
    written = io.BytesIO()
    handler = logging.StreamHandler(io.TextIOWrapper(written, encoding="utf-8", write_through=True))
    handler.setFormatter(SafeFormatter("%(asctime)s test[1] %(levelname)s %(name)s: %(message)s"))
    # A logger of its own, outside of the tree: what pytest captures must be what can be written.
    logger = logging.Logger("of.the.test")  # noqa: LOG001
    logger.addHandler(handler)
    logger.error(message, *arguments, **how)  # type: ignore[arg-type]
    return written.getvalue().decode()


@pytest.mark.parametrize("text", UNSAFE.values(), ids=UNSAFE)
def test_text_of_strangers_stays_on_its_line(text: str) -> None:
    (line, end) = logged("request %s of %r: no", f"/a{text}{FORGED}", [text]).split("\n")
    assert end == ""
    assert line.isprintable()
    assert "/a\\" in line
    assert line.endswith(": no")


@pytest.mark.parametrize("words", ["Привет, мир", "日本語", "a b-c_d%0A", "👩\u200d🚀", "back\\slash", '"quoted"'])
def test_text_that_can_be_read_is_left_as_it_is(words: str) -> None:
    assert logged("%s", words).endswith(f": {words}\n")


def test_messages_of_exceptions_and_stacks_begin_no_record() -> None:
    def lines_of(**how: object) -> list[str]:
        return logged("it broke", **how).splitlines()

    def fail() -> None:
        raise ValueError(f"first\n{FORGED}\u2028{FORGED}")

    try:
        try:
            fail()
        except ValueError as error:
            raise RuntimeError(f"second\r{FORGED}") from error
    except RuntimeError as error:
        for how in ({"exc_info": True}, {"stack_info": True}, {"extra": trace_of(error)}):
            record, *trace = lines_of(**how)
            assert record.endswith("it broke")
            assert trace
            assert all(line.startswith("    ") for line in trace), how
        without_messages = "\n".join(lines_of(extra=trace_of(error)))
        assert "RuntimeError" in without_messages
        assert "ValueError" in without_messages
        assert "all is lost" not in without_messages.replace("{FORGED}", "")
        assert "test_logs.py" in without_messages


@pytest.mark.processes
def test_so_do_processes_log_what_libraries_say_too() -> None:
    script = """
        import asyncio, logging, warnings
        from foundation.logs import configure_logging
        from foundation.settings import LogSettings
        configure_logging("api_service", LogSettings())
        logging.getLogger("uvicorn.error").warning("GET %s", "/\\nforged")
        async def main():
            asyncio.get_running_loop().call_exception_handler({"message": "of a peer\\nforged"})
        asyncio.run(main())
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "forged" in done.stderr
    assert [line for line in done.stderr.splitlines() if not line.startswith("20")] == []
