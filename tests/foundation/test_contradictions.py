import pytest

from foundation.settings import ApiSettings, GenerationSettings, QuestionSettings
from foundation.settings.contradictions import of_sizes, of_times


@pytest.mark.parametrize(("generation", "wait", "told"), [(300, 600, 0), (600, 600, 0), (601, 600, 1)])
def test_answers_that_take_longer_than_questions_wait_are_told(generation: float, wait: float, told: int) -> None:
    found = list(
        of_times(GenerationSettings(max_generation_seconds=generation), QuestionSettings(max_wait_seconds=wait))
    )
    assert len(found) == told
    assert all("ASKMESH_MAX_WAIT_SECONDS 600" in each for each in found)


@pytest.mark.parametrize(("characters", "body", "told"), [(8_000, 65_536, 0), (65_536, 65_536, 0), (65_537, 65_536, 1)])
def test_questions_that_fit_into_no_body_are_told(characters: int, body: int, told: int) -> None:
    found = list(of_sizes(ApiSettings(max_body_bytes=body), QuestionSettings(max_question_characters=characters)))
    assert len(found) == told
    assert all("ASKMESH_MAX_BODY_BYTES" in each for each in found)


def test_the_defaults_fit_together() -> None:
    assert not [*of_times(GenerationSettings(), QuestionSettings()), *of_sizes(ApiSettings(), QuestionSettings())]
