"""Download in the page's list of models, and the model with which a new tab begins."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from app.library.downloads import STOPPED, Downloads
from app.library.library import ModelLibrary
from app.library.offers import find_offers
from app.page.components import build_demo
from tests.app.library.fake_loader import FakeLoader, offer
from tests.app.page.axe import serious_findings
from tests.app.page.browsing import visit
from tests.fakes import INFO
from tests.models.fetching.conftest import checkpoints_dir, config, hub  # noqa: F401
from tests.models.fetching.local_hub import Hub
from tests.waiting import free_port

pytestmark = [pytest.mark.browser, pytest.mark.usefixtures("no_stray_event_loops")]


def test_what_is_not_here_is_fetched_loaded_and_begun_with(
    page: Page,
    hub: Hub,  # noqa: F811
    config: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    loader = FakeLoader(infos={"model": replace(INFO, name="Fetched")})
    with ModelLibrary([offer("first"), *find_offers([config])], loader) as library, Downloads(library) as downloads:
        library.load("first")
        demo = build_demo(library.model("first"), library=library, downloads=downloads)
        _, url, _ = demo.launch(prevent_thread_lock=True, quiet=True, server_port=free_port())
        try:
            page.set_viewport_size({"width": 390, "height": 844})
            visit(page, url)
            page.locator(".mv-picker > summary").click()
            page.locator(".mv-library-away > summary").click()
            row = page.locator(".mv-library-row", has=page.locator('[data-model="model"]'))
            expect(row).to_contain_text("Not here: language_model (someone/llama)")
            hub.pause = 0.05
            page.get_by_role("button", name="Download: model").press("Enter")
            expect(row).to_contain_text("% (")
            expect(row.locator("progress")).to_be_visible()
            assert serious_findings(page) == []
            page.screenshot(path=tmp_path / "download-390.png")
            page.get_by_role("button", name="Stop: model").press("Enter")
            expect(row).to_contain_text(STOPPED)
            hub.pause = 0
            page.get_by_role("button", name="Download: model").press("Enter")
            expect(row).to_have_attribute("data-state", "here")
            page.locator('[data-model="model"]').click()
            expect(page.locator(".mv-model")).to_have_text("Fetched")
            again = page.context.new_page()
            visit(again, url)
            expect(again.locator(".mv-model")).to_have_text("Fetched")
        finally:
            demo.close(verbose=False)
