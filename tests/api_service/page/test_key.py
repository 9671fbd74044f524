# ruff: noqa: RUF001 - these are Russian letters, not Latin ones gone wrong
"""The page before a server that asks for keys."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.api_service.page.conftest import MESH_SETTINGS
from tests.api_service.page.reader import FakeModel, Reader
from tests.mesh import Mesh

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def closed(model: FakeModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    settings = MESH_SETTINGS | {"ASKMESH_MODEL_URL": model.url, "ASKMESH_REQUIRE_AUTH": "true"}
    with Mesh(tmp_path_factory.mktemp("closed"), settings) as mesh:
        assert any("It asks everybody for a key" in line for line in mesh.output)
        yield mesh


def keys(mesh: Mesh, *arguments: str) -> str:
    """What the askmesh command prints beside the running mesh."""
    command = [sys.executable, "-m", "operations", "keys", *arguments]
    environment = os.environ | {"ASKMESH_DATA_DIR": str(mesh.data_dir)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()


def reader_of(page: Page, mesh: Mesh, model: FakeModel) -> Reader:
    reader = Reader(page, mesh, model)
    page.goto("/")
    return reader


def test_a_key_is_asked_for_kept_in_this_browser_and_sent(browser: Browser, closed: Mesh, model: FakeModel) -> None:
    key = keys(closed, "create", "--tenant", "reader")
    context = browser.new_context(base_url=closed.api, locale="en-US")
    reader = reader_of(context.new_page(), closed, model)
    dialog = reader.page.get_by_role("dialog")
    expect(dialog).to_be_hidden()
    reader.box.fill("who asks?")
    reader.box.press("Enter")
    expect(dialog.get_by_role("heading")).to_have_text("This server asks for a key")
    field = dialog.get_by_label("Key", exact=True)
    expect(field).to_be_focused()
    reader.check_accessibility()

    field.fill("not a key")
    field.press("Enter")
    expect(dialog.get_by_role("alert")).to_have_text(re.compile("no key has"))
    field.fill("askmesh_wrong")
    field.press("Enter")
    expect(dialog.get_by_role("alert")).to_have_text("This key is not known, has expired or was revoked.")
    field.fill(key)
    field.press("Enter")
    expect(dialog).to_be_hidden()
    reader.expect_state("completed")  # what was asked went on by itself, and its stream too
    expect(reader.entries).to_have_count(1)
    assert reader.page.evaluate("localStorage['askmesh.key']") == key
    assert key not in reader.page.url
    assert key not in reader.page.content()

    reader.page.reload()
    reader.expect_state("completed")
    expect(dialog).to_be_hidden()
    reader.page.get_by_role("button", name="Change the key").click()
    reader.check_accessibility()
    dialog.get_by_role("button", name="Forget the key").click()
    expect(dialog).to_be_hidden()
    assert reader.page.evaluate("localStorage.getItem('askmesh.key')") is None
    assert reader.foreign == []
    assert reader.complaints == []
    context.close()


def test_whoever_gives_no_key_keeps_the_question(browser: Browser, closed: Mesh, model: FakeModel) -> None:
    context = browser.new_context(base_url=closed.api, locale="ru-RU", color_scheme="dark")
    reader = reader_of(context.new_page(), closed, model)
    dialog = reader.page.get_by_role("dialog")
    for _ in range(2):  # to ask again opens it again
        reader.box.fill("кто спрашивает?")
        reader.box.press("Enter")
        expect(dialog.get_by_role("heading")).to_have_text("Этот сервер просит ключ")
        reader.check_accessibility()
        reader.page.keyboard.press("Escape")
        expect(dialog).to_be_hidden()
        expect(reader.page.locator("#sending")).to_have_text("Сервер просит ключ.")
        expect(reader.box).to_have_value("кто спрашивает?")
    expect(reader.entries).to_have_count(0)
    reader.page.get_by_role("button", name="Сменить ключ").click()
    dialog.get_by_label("Ключ", exact=True).fill(keys(closed, "create", "--tenant", "читатель".encode().hex()))
    dialog.get_by_role("button", name="Войти с этим ключом").click()
    reader.box.press("Enter")
    reader.expect_state("completed")
    assert reader.complaints == []
    context.close()
