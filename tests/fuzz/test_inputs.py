"""Everything that is typed or sent, made up at random: it is understood or refused in one line, and nothing else.

`make fuzz` runs 10,000 cases of each; FUZZ_SEED begins elsewhere, FUZZ_CASES sets their number. Files: test_files.py.
"""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from app.chat.normaliser import normalise
from app.chat.regions import entities_of, parse_answer
from app.limits.addresses import parse_networks, resolve
from app.limits.bodies import parse_object
from app.limits.gradio_app import cookies_of
from app.limits.route_kinds import route_of
from app.limits.web_origins import Origins
from app.page.boxes.overlay import overlay_svg
from app.page.text.markup import answer_html, question_html
from models.config import load_config
from models.formats.minigpt import GROUNDING_TASKS
from models.grounding import parse_boxes, parse_grounded_text
from tests.app.page.text.html_reader import Reader
from tests.fuzz.made_up import Target, made_up, mutated, run
from tests.paths import ROOT

NOT_IN_XML = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
CONFIG = ROOT / "eval_configs" / "tiny_minigpt_v2.yaml"


def questions(rng: random.Random, folder: Path) -> None:
    text = made_up(rng)
    once = normalise(text, GROUNDING_TASKS)
    assert normalise(once, GROUNDING_TASKS) == once
    once.encode("utf-8")


def boxes(rng: random.Random, folder: Path) -> None:
    text = made_up(rng)
    parts = parse_grounded_text(text)
    assert "".join(part if isinstance(part, str) else part.markup for part in parts) == text
    assert all(0 <= value <= 1 for box in parse_boxes(text) for value in (box.x0, box.y0, box.x1, box.y1))


def markup(rng: random.Random, folder: Path) -> None:
    text = made_up(rng)
    html, _ = answer_html(text, phrase=rng.choice(["", made_up(rng)]), unfinished=rng.random() < 0.5)
    Reader(html).check_allowed()
    Reader(question_html(text))


def overlay(rng: random.Random, folder: Path) -> None:
    entities = entities_of(parse_answer(made_up(rng) + "<p>a&b</p>{<1><2><3><4>}<delim>{<9><2><300><4>}"))
    size = rng.choice([(1, 1), (100, 3), (1, 9000), (640, 480)])
    svg = overlay_svg(entities, size=size, picture="", description=made_up(rng))
    ElementTree.fromstring(NOT_IN_XML.sub("", svg))  # it is part of an HTML page, which may hold them


def bodies(rng: random.Random, folder: Path) -> None:
    value = {"data": [made_up(rng), rng.random(), None], "fn_index": 0, "session_hash": "a"}
    parse_object(mutated(rng, json.dumps(value).encode()))


def requests(rng: random.Random, folder: Path) -> None:
    raw = made_up(rng).encode("utf-8", "replace")
    scope = {"headers": [(b"host", raw), (b"origin", raw), (b"x-forwarded-for", raw)], "client": ("127.0.0.1", 1)}
    resolve(scope, parse_networks(["127.0.0.1"]))
    cookies_of(raw.decode("latin-1"))
    route_of("GET", "/" + made_up(rng))
    Origins([]).check(scope, changes_something=True)


def options(rng: random.Random, folder: Path) -> None:
    load_config(
        CONFIG, [made_up(rng), f"{rng.choice(['name', 'device', 'sampling.seed', 'checkpoint'])}={made_up(rng)}"]
    )


def yamls(rng: random.Random, folder: Path) -> None:
    path = folder / "fuzz.yaml"
    path.write_bytes(mutated(rng, CONFIG.read_bytes() + made_up(rng).encode("utf-8", "replace")))
    load_config(path, [])


@pytest.mark.parametrize("target", [questions, boxes, markup, overlay, bodies, requests, options, yamls])
def test_understood_or_refused_in_one_line(target: Target, tmp_path: Path) -> None:
    run(target, tmp_path, usual=60)
