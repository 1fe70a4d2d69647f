"""Every field that a reader uses, left out or of another kind, is an error that names file, line and field."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.training.data.small_data import (
    CASES,
    COCO,
    IN_SHARDS,
    WITHOUT_FILES,
    Case,
    FirstOf,
    Place,
    make_shard,
    open_reader,
    write,
)
from tests.training.tiny_stages import draw_pictures, tiny_recipe, write_json
from training import prepare
from training.data.annotations import DataError
from training.data.formats import FORMATS
from training.data.readers import DatasetPaths
from training.recipe import DatasetRecipe
from training.train import main


def broken(case: Case) -> Iterator[tuple[str, Place, str, dict[str, Any]]]:
    """File, place of a field, what was done to it, and all files with that done."""
    for file, places in case.fields.items():
        for place in places:
            for kind, value in (("missing", None), ("a mapping", {"?": 1}), ("true", True)):
                if kind == "missing" and place in case.optional:
                    continue
                files = copy.deepcopy(case.files)
                holder = files[file]
                for step in place[:-1]:
                    holder = holder[step]
                if kind == "missing":
                    del holder[place[-1]]
                else:
                    holder[place[-1]] = value
                yield file, place, kind, files


def test_there_is_a_case_for_every_format() -> None:
    assert CASES.keys() | IN_SHARDS | WITHOUT_FILES == FORMATS.keys()


@pytest.mark.parametrize("name", CASES)
def test_a_wrong_field_is_found_without_opening_a_picture(name: str, tmp_path: Path) -> None:
    """By `check`, as `training.prepare` calls it, and by `example` in training, with the same words."""
    draw_pictures(tmp_path, [COCO, "9.jpg", "9.png", "image/9.jpg", "VG_100K/9.jpg"])
    write(tmp_path, CASES[name].files)
    whole = open_reader(name, tmp_path)
    whole.check(0)
    whole.example(0, FirstOf())
    for file, place, kind, files in broken(CASES[name]):
        write(tmp_path, files)
        found = []
        for use in (lambda reader: reader.check(0), lambda reader: reader.example(0, FirstOf())):
            with pytest.raises(DataError) as raised:
                use(open_reader(name, tmp_path))
            found.append(str(raised.value))
        message = found[0]
        assert found[1] == message, (place, kind)
        assert message.startswith(str(tmp_path / file)), (place, kind, message)
        assert (", reference 0: " if file.endswith(".p") else ", line ") in message
        assert f"{place[-1]}'" in message, (place, kind, message)
        assert "\n" not in message


@pytest.mark.parametrize("name", FORMATS)
def test_prepare_finds_nothing_wrong_where_nothing_is(name: str, tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path, "minigpt_v2")
    data = tmp_path / "data"
    draw_pictures(data, [COCO, "9.jpg", "9.png", "image/9.jpg", "VG_100K/9.jpg"])
    make_shard(data / "0.tar", 2)
    if name in CASES:
        write(data, CASES[name].files)
    annotations = CASES[name].annotations if name in CASES else "0.tar" if name in IN_SHARDS else "0/3"
    report = prepare.check_dataset(recipe, DatasetRecipe(format=name, annotations=annotations), num_opened=3)
    assert (report.errors, report.missing, report.outside, report.num_left_out) == ([], [], [], 0)
    assert report.num_examples > 0
    if name in CASES and name != "unnatural_instruction":
        for picture in (*data.glob("*.[jp]*g"), *data.glob("*/9.jpg")):
            picture.unlink()
        report = prepare.check_dataset(recipe, DatasetRecipe(format=name, annotations=annotations), num_opened=3)
        assert report.num_missing == 1 or "no example can be used" in report.errors[0]


@pytest.mark.parametrize("item", [3, "text", None, []])
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if isinstance(case.files.get("x.json"), list)])
def test_an_item_that_is_no_mapping(name: str, item: Any, tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", [item])

    def read() -> None:
        reader = open_reader(name, tmp_path)
        reader.has_image(0)
        reader.example(0, FirstOf())

    with pytest.raises(DataError, match=r"x\.json, line 2 \(item 0\): field '"):
        read()


@pytest.mark.parametrize("name", sorted(IN_SHARDS))
def test_a_wrong_field_in_a_shard(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json, "dumps", lambda _: '{"caption": 3}')
    make_shard(tmp_path / "0.tar", 1)
    reader = FORMATS[name](DatasetPaths(annotations=str(tmp_path / "0.tar"), images=tmp_path))
    with pytest.raises(DataError, match=r"0\.tar: 00000\.json: field 'caption' is 3; it must be text\.$"):
        reader.example(0, FirstOf())


def test_data_without_a_usable_example(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All pictures of a VQA file elsewhere: one line, by training and by prepare."""
    recipe = tiny_recipe(tmp_path, "minigpt_v2", stage="3")
    write_json(tmp_path / "data" / "vqa.json", [{"image": "gone.jpg", "question": "?", "answer": ["1"]}] * 3)
    dataset = '{"format": "coco_vqa", "annotations": "vqa.json", "images": "no", "batch_size": 1}'
    options = ["--cfg-path", str(recipe.source), "--options", f"data.datasets=[{dataset}]"]
    assert main(options) == 2
    assert "vqa.json: no example can be used; are the pictures in" in capsys.readouterr().err
    assert prepare.main(options) == 1
    assert "vqa.json: no example can be used; are the pictures in" in capsys.readouterr().err


def test_a_format_that_nothing_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tiny_recipe(tmp_path, "minigpt_v2", stage="3")
    dataset = '{"format": "coco", "annotations": "x", "batch_size": 1}'
    for key in ("data.datasets", "evaluation.datasets"):
        options = ["--cfg-path", str(recipe.source), "--options", f"{key}=[{dataset}]"]
        assert main(options) == 2
        assert prepare.main(options) == 2
        shown = capsys.readouterr().err
        assert shown.count("recipe.yaml: unknown data format 'coco'; known: laion") == 2
