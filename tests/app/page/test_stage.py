"""The markup of the stage."""

from __future__ import annotations

from dataclasses import replace

from app.page.stage import stage_html
from tests.fakes import INFO, TASKS


def test_the_introduction_names_the_model_and_shows_the_examples() -> None:
    info = replace(INFO, name="A <b>", description="Knows & sees.", is_toy=False)
    html = stage_html(info, "<i>cards</i>")
    assert "<strong>A &lt;b&gt;</strong> answers in words, and with boxes on the picture. Knows &amp; sees." in html
    assert "<i>cards</i>" in html
    toy = stage_html(replace(info, is_toy=True, tasks=TASKS[:3]), "")
    assert "answers in words.<" in toy  # the banner says the rest
