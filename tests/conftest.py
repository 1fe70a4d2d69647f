"""Shared by all tests: the `--goldens` option, a Chromium for the browser tests, and no network or telemetry."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

# Before anything imports the libraries that read them: a test that would download something fails instead.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

GOLDENS = Path(__file__).parent / "goldens"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--goldens",
        type=Path,
        default=GOLDENS,
        metavar="DIR",
        help="folder of recorded cases for tests/test_parity.py, each with config.yaml and case.json (tests/goldens)",
    )


@pytest.fixture(scope="session")
def goldens_dir(request: pytest.FixtureRequest) -> Path:
    """The folder of recorded cases."""
    folder: Path = request.config.getoption("--goldens")
    return folder


@pytest.fixture(scope="session")
def chromium() -> Path:
    """The installed Chromium. Without one the browser tests are skipped, except where REQUIRE_BROWSER is set (CI)."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        message = "no Chromium; install one, for example with: apt install chromium fonts-dejavu-core"
        (pytest.fail if os.environ.get("REQUIRE_BROWSER") else pytest.skip)(message)
    return Path(found)


@pytest.fixture(scope="session")
def browser(chromium: Path) -> Iterator[Browser]:
    """One headless browser for all tests."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Containers run as root and have a small /dev/shm; Chromium's sandbox and shared memory need neither here.
        browser = playwright.chromium.launch(
            executable_path=str(chromium), args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
        )
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page of a visitor of its own: no cookies or storage of other tests."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    yield context.new_page()
    context.close()
