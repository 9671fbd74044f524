import pytest

from api_service.answers.stream_start import StreamStart
from api_service.core.stream_cursor import StreamCursor
from api_service.http.problems import Code, ProblemError


@pytest.mark.parametrize(
    "cursor",
    [StreamCursor(0, 0), StreamCursor(3, 12), StreamCursor(2**31 - 1, 2**53 - 1), StreamCursor(0, 5, ended=True)],
)
def test_what_is_written_is_read(cursor: StreamCursor) -> None:
    assert StreamCursor.parse(str(cursor)) == cursor


@pytest.mark.parametrize(
    "text",
    [
        *["", ":", "0", "0:", ":0", "0:0:", "0:0:END", "00:1", "0:01", "-1:0", "0:-1", "+0:1", "0:1 ", " 0:1", "0:1\n"],
        *["0:1.0", "0:1,0:1", "\u0660:1", "1e3:1", "0x1:1", "0:99999999999999999", "99999999999:0", "0:0:end:end"],
    ],
)
def test_anything_else_is_refused_by_the_name_of_its_field(text: str) -> None:
    with pytest.raises(ProblemError) as caught:
        StreamStart.parse(text, "starting_after", Code.INVALID_PARAMETER)
    (error,) = caught.value.errors
    assert error.field == "starting_after"
    assert caught.value.code is Code.INVALID_PARAMETER
