"""Show as code, by the keyboard alone: from an answer in front of another server to the clipboard and back."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from app.remote.remote_config import remote_config
from app.remote.remote_model import RemoteModel
from app.remote.served_elsewhere import find_served
from tests.app.api.serving import serve_api
from tests.app.far_server import far_server
from tests.app.page.axe import serious_findings
from tests.app.page.browsing import answers, ask, attach, done, visit

pytestmark = pytest.mark.browser

FOUND = '```json\n[\n\t{"bbox_2d": [100, 200, 450, 600], "label": "red circle"},\n'
FOUND += '\t{"bbox_2d": [600, 300, 900, 900], "label": "blue square"}\n]\n```'


def test_an_answer_of_another_server_as_code(
    browser: Browser, scene_file: Path, no_stray_event_loops: None, tmp_path: Path
) -> None:
    with far_server() as far:
        far.models = {"data": [{"id": "Qwen3-VL"}]}
        far.say(*FOUND.splitlines(keepends=True))
        config = remote_config(None, [], url=far.url, key=None, model=None)
        assert config is not None
        with RemoteModel(find_served(config)) as model, serve_api(model, name="Qwen3-VL", stats=model.stats) as api:
            context = browser.new_context(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
            context.grant_permissions(["clipboard-read", "clipboard-write"])
            page = context.new_page()
            visit(page, api.url)
            attach(page, scene_file)
            ask(page, "[detection] shape")
            done(page, 1)
            assert "shape" in far.bodies[0]["messages"][0]["content"][1]["text"]
            expect(answers(page).locator(".mv-phrase")).to_have_text(["red circle", "blue square"])
            expect(answers(page).locator(".mv-text")).not_to_contain_text("bbox")
            drawn = "The picture with marked regions. 1: red circle; 2: blue square"
            expect(page.get_by_role("img", name=drawn)).to_be_visible()

            opener = answers(page).get_by_role("button", name="Code: this answer as code")
            opener.focus()
            page.keyboard.press("Enter")
            sheet = page.get_by_role("dialog", name="This answer as code")
            expect(sheet.get_by_role("heading", level=3)).to_have_text(
                ["curl", "Python, openai", "Python, gradio_client"]
            )
            expect(sheet).to_contain_text("Qwen3-VL")
            expect(sheet).to_contain_text(api.url.rstrip("/") + "/v1/chat/completions")
            page.screenshot(path=tmp_path / "code-1280.png")
            sheet.get_by_role("button", name="Copy: Python, openai").focus()
            page.keyboard.press("Enter")
            expect(sheet.get_by_role("button", name="Copied")).to_be_visible()
            copied = page.evaluate("navigator.clipboard.readText()")
            compile(copied, "copied", "exec")
            assert "scene.png" in copied
            for theme in ("light", "dark"):
                page.evaluate(f"document.body.classList.toggle('dark', {str(theme == 'dark').lower()})")
                assert serious_findings(page) == [], theme
                page.screenshot(path=tmp_path / f"code-{theme}.png")
            page.set_viewport_size({"width": 390, "height": 844})
            assert sheet.evaluate("(node) => node.scrollWidth <= node.clientWidth")
            page.screenshot(path=tmp_path / "code-390.png")
            page.keyboard.press("Escape")
            expect(sheet).to_have_count(0)
            expect(opener).to_be_focused()
            context.close()
