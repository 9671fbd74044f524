"""What the documents say of one another."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = (
    "api_service",
    "deploy",
    "docs",
    "embedded",
    "llm_service",
    "nginx",
    "operations",
    "protos",
    "worker_service",
)
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(file for folder in FOLDERS for file in (ROOT / folder).rglob("*.md"))])


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: str(document.relative_to(ROOT)))
def test_files_that_are_named_are_there(document: Path) -> None:
    """By their path from the root or from the document's folder; what a decision replaced may be gone."""
    if document.name == "CHANGELOG.md":
        return
    named = re.findall(r"`([\w-]+(?:/[\w.-]+)+\.(?:py|proto))`", document.read_text())
    assert [name for name in named if not ((ROOT / name).exists() or (document.parent / name).exists())] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: str(document.relative_to(ROOT)))
def test_links_between_files_lead_somewhere(document: Path) -> None:
    links = re.findall(r"\]\((?!\w+:)([^)#\s]+)", document.read_text())
    assert [link for link in links if not (document.parent / link).exists()] == []


def test_every_decision_is_listed_by_its_title() -> None:
    listed = re.findall(r"^(\d+)\. \[(.+)\]\((.+)\)$", (ROOT / "docs/decisions/README.md").read_text(), re.MULTILINE)
    pages = sorted((ROOT / "docs/decisions").glob("[0-9]*.md"))
    titles = [page.read_text().partition("\n")[0] for page in pages]
    assert [f"# {number}. {title}" for number, title, _ in listed] == titles
    assert [name for *_, name in listed] == [page.name for page in pages]
    assert [int(number) for number, *_ in listed] == list(range(1, len(pages) + 1))
