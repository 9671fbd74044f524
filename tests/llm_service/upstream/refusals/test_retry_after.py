from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from multidict import CIMultiDict

from llm_service.upstream.refusals.classification import error_of_response
from llm_service.upstream.refusals.retry_after import retry_after


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"Retry-After": "0"}, 0),
        ({"Retry-After": " 7 "}, 7),
        ({"Retry-After": "1.5"}, 1.5),
        ({"Retry-After": "20s"}, 20),
        ({"retry-after": "3"}, 3),
        ({"retry-after-ms": "250", "Retry-After": "7"}, 0.25),
        ({"x-ms-retry-after-ms": "1500.5"}, 1.5005),
        ({"retry-after-ms": "soon", "Retry-After": "7"}, 7),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "-1"}, None),
        ({"Retry-After": "nan"}, None),
        ({"Retry-After": "inf"}, None),
        ({"Retry-After": "1e400"}, None),
        ({"Retry-After": ""}, None),
        ({"Retry-After": "Mon, 99 Foo 2026 00:00:00 GMT"}, None),
        ({"Retry-After": "Mon, 02 Nov 2020 00:00:00 GMT"}, 0),
        ({"Retry-After": "2020-11-02T00:00:00Z"}, 0),
        ({"Retry-After": "1604275200"}, 0),
    ],
)
def test_it_is_read(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(CIMultiDict(headers)) == seconds


@pytest.mark.parametrize(
    "written",
    [
        lambda moment: format_datetime(moment, usegmt=True),
        lambda moment: moment.strftime("%A, %d-%b-%y %H:%M:%S GMT"),
        lambda moment: moment.isoformat(),
        lambda moment: str(moment.timestamp()),
    ],
    ids=["HTTP", "RFC 850", "ISO 8601", "Unix"],
)
def test_it_may_be_a_moment(written: "pytest.FixtureRequest") -> None:
    later = datetime.now(UTC) + timedelta(hours=1)
    seconds = retry_after(CIMultiDict({"Retry-After": written(later)}))  # type: ignore[operator]
    assert seconds is not None
    assert 3500 < seconds <= 3600


@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 503, 529])
def test_a_refusal_that_is_waited_out_carries_it(status: int) -> None:
    assert error_of_response(status, CIMultiDict({"Retry-After": "17"}), b"").retry_after == 17
