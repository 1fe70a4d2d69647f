"""Shared by all tests: the `--goldens` option, a Chromium for the browser tests, and no network or telemetry."""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Before anything imports the libraries that read them: a test that would download something fails instead.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
# Uploads are named by what they hold, and a server deletes its own: of several workers, each has a folder of its own.
UPLOADS = os.environ["GRADIO_TEMP_DIR"] = tempfile.mkdtemp(prefix="minivlm-tests-")
# Of several workers, each has one core; before torch counts them.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import psutil
import pytest
from hypothesis import settings

from tests.paths import GOLDENS
from tests.ready_python import ready_python

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

    from models.vision_language_model import VisionLanguageModel


# Made-up inputs are the same in every run, so that a change is judged by what it changes; `make fuzz` makes up others,
# and as many as it is asked for, where a test has no number of its own.
settings.register_profile("the same each time", derandomize=True)
settings.register_profile("many", max_examples=int(os.environ.get("FUZZ_CASES", "1")), deadline=None)
settings.load_profile("many" if "FUZZ_CASES" in os.environ else "the same each time")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--goldens",
        type=Path,
        default=GOLDENS,
        metavar="DIR",
        help="folder of recorded cases for tests/test_parity.py, each with config.yaml and case.json (tests/goldens)",
    )


def pytest_unconfigure() -> None:
    shutil.rmtree(UPLOADS, ignore_errors=True)


@pytest.fixture(autouse=True, scope="module")
def nothing_old_is_looked_through() -> None:
    """What there is before a module stays: without it, each of the many collections of garbage is much faster."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="module")
def no_fork_stays() -> Iterator[None]:
    """No process that a test forked outlives its module.

    It has all open pipes and sockets of this one: a browser's driver, or a visitor, would wait for their end forever.
    """
    yield
    own = psutil.Process()
    command = own.cmdline()
    left = [child for child in own.children() if child.status() != psutil.STATUS_ZOMBIE and child.cmdline() == command]
    assert not left, f"forked and never ended: {left}"


@pytest.fixture(scope="session")
def goldens_dir(request: pytest.FixtureRequest) -> Path:
    """The folder of recorded cases."""
    folder: Path = request.config.getoption("--goldens")
    return folder


@pytest.fixture(scope="session")
def python() -> Iterator[list[str]]:
    """How a command begins that runs Python in a process of its own, without importing all libraries anew."""
    with ready_python() as command:
        yield command


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


class Visitors:
    """Visitors of one browser after each other, who share its cache and nothing else.

    Most of what a page costs is fetching and compiling gradio's scripts: with the cache it is a third. The browser
    closes the context when it is closed itself.
    """

    def __init__(self, browser: Browser, **options: Any) -> None:
        self._context = browser.new_context(**options)

    def come(self) -> Page:
        return self._context.new_page()

    def leave(self) -> None:
        """Close all tabs and forget what they kept; what lives in a tab alone (sessionStorage) goes with it."""
        for tab in self._context.pages:
            if tab.url.startswith("http"):
                tab.evaluate("localStorage.clear()")
            tab.close()
        self._context.clear_cookies()
        self._context.clear_permissions()


@pytest.fixture(scope="session")
def visitors(browser: Browser) -> Visitors:
    return Visitors(browser, viewport={"width": 1280, "height": 900})


@pytest.fixture(scope="session")
def phones(browser: Browser) -> Visitors:
    return Visitors(browser, viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)


@pytest.fixture
def page(visitors: Visitors) -> Iterator[Page]:
    """A page of a visitor of its own: no cookies or storage of other tests."""
    yield visitors.come()
    visitors.leave()


@pytest.fixture
def phone(phones: Visitors) -> Iterator[Page]:
    """As `page`, on a touch screen of 390 x 844."""
    yield phones.come()
    phones.leave()


@pytest.fixture(scope="module")
def quick() -> Iterator[None]:
    """For whole modules of engine tests; see `quick_process`."""
    from tests.tiny_model import quick_process

    with quick_process():
        yield


@pytest.fixture
def model() -> VisionLanguageModel:
    """Fresh, with the same random weights for every test."""
    from tests.tiny_model import tiny_model

    return tiny_model()
