"""What is offered, and what is said of it before anything is loaded."""

from __future__ import annotations

from pathlib import Path

from app.arguments import DEFAULT_CONFIG
from app.library.offers import configs_in, find_offers
from models.command_line import CONFIG_DIR


def test_all_configurations_that_ship() -> None:
    offers = {one.id: one for one in find_offers(configs_in(CONFIG_DIR))}
    assert offers.keys() == {path.stem for path in CONFIG_DIR.glob("*.yaml")}
    bundled, released = offers["tiny_minigpt_v2"], offers["minigpt_v2"]
    assert (bundled.name, bundled.family, bundled.problem) == ("Tiny MiniGPT-v2", "minigpt_v2", "")
    assert 4 * 2**20 < bundled.num_bytes < 8 * 2**20
    assert released.problem.startswith("Not here: ")
    assert "checkpoint (" in released.problem
    assert released.problem.endswith("Fetch: python -m models fetch eval_configs/minigpt_v2.yaml")


def test_a_folder_of_others(tmp_path: Path) -> None:
    mine = tmp_path / "tiny_minigpt_v2.yaml"
    mine.write_text(DEFAULT_CONFIG.read_text())
    (tmp_path / "typo.yaml").write_text("family: minigpt_v2\nchekpoint: x")
    (tmp_path / "compose.yaml").write_text("services: {}")
    found = find_offers([DEFAULT_CONFIG, mine, DEFAULT_CONFIG, *configs_in(tmp_path)], overrides=["x=1"])
    assert [one.id for one in found] == ["tiny_minigpt_v2", f"{tmp_path.name}/tiny_minigpt_v2", "typo"]
    assert "unknown key 'chekpoint'" in found[2].problem


def test_overrides_are_for_the_models_of_the_command_line() -> None:
    others = CONFIG_DIR / "tiny_moe_llava.yaml"
    one, two = find_offers([DEFAULT_CONFIG, others], overrides=["max_chats=3"], overridden=[DEFAULT_CONFIG])
    assert (one.overrides, two.overrides) == (("max_chats=3",), ())
