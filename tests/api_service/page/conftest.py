"""One mesh, one model server and one browser for all tests of the page."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from tests.api_service.page.reader import MODEL_SLOTS, FakeModel, Reader
from tests.mesh import Mesh

MESH_SETTINGS = {
    "ASKMESH_MODEL_NAME": "fake-model",
    "ASKMESH_MAX_OUTPUT_TOKENS": "500000",
    "ASKMESH_DRAIN_SECONDS": "1",
    "ASKMESH_WORKER_SLOTS": str(MODEL_SLOTS),
}


@pytest.fixture(scope="package")
def model(processes: None) -> Iterator[FakeModel]:
    command = [sys.executable, "-m", "tests.fakes.model_server", "--port", "0", "--context", "1000000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield FakeModel(process.stdout.readline().strip())
        finally:
            process.kill()


@pytest.fixture(scope="package")
def mesh(model: FakeModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    with Mesh(tmp_path_factory.mktemp("page"), MESH_SETTINGS | {"ASKMESH_MODEL_URL": model.url}) as mesh:
        yield mesh


@pytest.fixture(scope="package")
def chromium() -> str:
    """The program. Skips the test, saying why, where there is none."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium here: install Debian's package chromium to test the page")
    return chromium


@pytest.fixture(scope="package")
def browser(chromium: str) -> Iterator[Browser]:
    """Playwright keeps an event loop running: no test of this package is a coroutine."""
    with sync_playwright() as playwright, playwright.chromium.launch(executable_path=chromium) as browser:
        yield browser


Opener = Callable[..., Reader]


@pytest.fixture
def read(browser: Browser, mesh: Mesh, model: FakeModel) -> Iterator[Opener]:
    """Opens the page as somebody new: ``read(locale="ru-RU", color_scheme="dark")``.

    Afterwards nothing may have gone to another host, and no script may have failed or been stopped by the policy.
    """
    with ExitStack() as stack:
        readers: list[Reader] = []

        def open_page(path: str = "/", *, context: BrowserContext | None = None, **options: object) -> Reader:
            if context is None:
                context = browser.new_context(base_url=mesh.api, **{"locale": "en-US", **options})  # type: ignore[arg-type]
                stack.callback(context.close)
            page: Page = context.new_page()
            reader = Reader(page, mesh, model)
            readers.append(reader)
            page.goto(path)
            return reader

        yield open_page
        model.release()
        for reader in readers:
            assert reader.foreign == []
            assert reader.complaints == []
