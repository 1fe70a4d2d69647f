"""What `python -m training.prepare` finds before training begins."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import pytest

from tests.training.data.small_data import make_shard
from tests.training.tiny_stages import aligned_captions, draw_pictures, tiny_recipe, write_json
from training import prepare


def test_prepare_finds_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tiny_recipe(tmp_path, "minigpt_v2", stage="3")
    assert prepare.main(["--cfg-path", str(recipe.source)]) == 0
    assert "Training can begin." in capsys.readouterr().out
    (tmp_path / "data" / "align" / "image" / "3.jpg").unlink()
    (tmp_path / "data" / "align" / "image" / "4.jpg").write_bytes(b"no picture")
    assert (
        prepare.main(
            ["--cfg-path", str(recipe.source), "--options", "data.max_missing_images=1", "data.max_missing_share=1"]
        )
        == 1
    )
    output = capsys.readouterr()
    assert "Training can't begin" in output.out
    assert output.err.count("missing:") == 2
    assert "2 pictures are missing, more than data.max_missing_images (1) allows." in output.err
    write_json(tmp_path / "data" / "conversation_58k.json", [{"id": "000000000000"}])
    assert prepare.main(["--cfg-path", str(recipe.source)]) == 1
    assert "line 2 (item 0): field 'conversations' is missing" in capsys.readouterr().err


def test_prepare_shows_boxes_that_go_beyond_their_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They are trained on, as in the originals; but whoever made the pictures smaller wants to know."""
    draw_pictures(tmp_path / "data", ["coco/COCO_train2014_000000000007.jpg"])
    boxes = {5: [2, 3, 10, 10], 6: [2, 3, 40, 10], 8: [-2, 3, 4, 10]}
    refs = [{"image_id": 7, "ann_id": n, "split": "train", "sentences": [{"raw": "a ball"}]} for n in boxes]
    (tmp_path / "data" / "refs(unc).p").write_bytes(pickle.dumps(refs))
    annotations = [{"id": number, "bbox": box} for number, box in boxes.items()]
    write_json(tmp_path / "data" / "instances.json", {"annotations": annotations})
    dataset = {"format": "refcoco", "annotations": ".", "images": "coco", "batch_size": 1}
    aligned_captions(tmp_path / "data" / "align")
    recipe = tiny_recipe(tmp_path, "minigpt_v2", data={"datasets": [dataset]})
    assert prepare.main(["--cfg-path", str(recipe.source)]) == 0
    shown = capsys.readouterr().err
    assert "refcoco: box {<10><10><210><43>} goes beyond its picture" in shown
    assert "box {<-10><10><10><43>}" in shown
    assert shown.count("goes beyond") == 2


def test_prepare_looks_for_every_picture_and_counts_missing_shards(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw_pictures(tmp_path / "data", ["a.png"])
    asked = {"from": "human", "value": "<image><image>\nwhich is red?"}
    several = {"id": 0, "image": ["a.png", "b.png"], "conversations": [asked, {"from": "gpt", "value": "the first"}]}
    whole = several | {"image": ["a.png", "a.png"]}
    write_json(tmp_path / "data" / "items.json", [several, *[whole] * 9])
    make_shard(tmp_path / "data" / "00001.tar", 2)
    aligned_captions(tmp_path / "data" / "align")
    datasets = [
        {"format": "moe_llava", "annotations": "items.json", "batch_size": 1},
        {"format": "laion", "annotations": "{00000..00002}.tar", "batch_size": 1},
    ]
    recipe = tiny_recipe(tmp_path, "minigpt_v2", data={"datasets": datasets})
    assert prepare.main(["--cfg-path", str(recipe.source)]) == 0
    found = capsys.readouterr()
    assert re.search(r"^moe_llava +10 +0 +1 +0$", found.out, re.MULTILINE)
    assert re.search(r"^laion +1000 +2 +0 +0$", found.out, re.MULTILINE)
    assert "b.png" in found.err


def refusal(datasets: list[dict[str, Any]], folder: Path, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    """What `prepare` says of data that training can't begin with."""
    aligned_captions(folder / "data" / "align")
    recipe = tiny_recipe(folder, "minigpt_v2", data={"datasets": datasets})
    assert prepare.main(["--cfg-path", str(recipe.source), "--options", "seed=1", *options]) == 1
    shown = capsys.readouterr()
    assert "Training can't begin like this." in shown.out
    return shown.err


def test_a_data_set_without_its_pictures_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Three of three are missing: fewer than the hundred that a recipe allows."""
    items = [{"image_id": number, "caption": "a dog"} for number in range(3)]
    write_json(tmp_path / "data" / "own" / "filter_cap.json", {"annotations": items})
    dataset = {"format": "cc_sbu_align", "annotations": "own", "batch_size": 1}
    assert "cc_sbu_align: not one example can be used" in refusal([dataset], tmp_path, capsys)
    # Neither share nor number let it pass.
    allowed = ("data.max_missing_images=100000", "data.max_missing_share=1")
    assert "cc_sbu_align: not one example can be used" in refusal([dataset], tmp_path, capsys, *allowed)
    pictures = tmp_path / "data" / "own" / "image"
    pictures.mkdir()
    for number in range(3):
        (pictures / f"{number}.jpg").write_bytes(b"no picture")
    assert "cc_sbu_align: not one example can be used" in refusal([dataset], tmp_path, capsys, *allowed)


def test_shards_of_which_no_picture_can_be_read_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_shard(tmp_path / "data" / "0.tar", 1, broken=0)
    dataset = {"format": "laion", "annotations": "0.tar", "batch_size": 1}
    options = ("data.max_missing_images=100000", "data.max_missing_share=1")
    assert "laion: not one example can be used" in refusal([dataset], tmp_path, capsys, *options)


def test_a_share_of_missing_pictures_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    aligned_captions(tmp_path / "data" / "own", count=20)
    for number in range(3):
        (tmp_path / "data" / "own" / "image" / f"{number}.jpg").unlink()
    dataset = {"format": "cc_sbu_align", "annotations": "own", "batch_size": 1}
    expected = "cc_sbu_align: 3 of 20 examples lack a picture, more than data.max_missing_share (0.1) allows."
    assert expected in refusal([dataset], tmp_path, capsys)
    draw_pictures(tmp_path / "data" / "own" / "image", ["0.jpg"])
    recipe = tiny_recipe(tmp_path, "minigpt_v2", data={"datasets": [dataset]})
    assert prepare.main(["--cfg-path", str(recipe.source)]) == 0


def test_pictures_of_one_s_own_need_no_public_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """.png beside aligned captions, and conversations about pictures that are not COCO's."""
    folder = tmp_path / "data"
    draw_pictures(folder, ["own/image/0.png", "own/image/1.jpeg", "photos/garden.png", "photos/my house.jpg"])
    items = [{"image_id": str(number), "caption": "a dog"} for number in range(2)]
    write_json(folder / "own" / "filter_cap.json", {"annotations": items})
    turns = [{"value": "what is this?"}, {"value": "a garden"}]
    named = {"id": 7, "image": "garden.png", "conversations": turns}
    write_json(folder / "talk.json", [named, {"id": "my house", "conversations": turns}])
    aligned_captions(folder / "align")
    datasets = [
        {"format": "cc_sbu_align", "annotations": "own", "batch_size": 1},
        {"format": "multitask_conversation", "annotations": "talk.json", "images": "photos", "batch_size": 1},
    ]
    recipe = tiny_recipe(tmp_path, "minigpt_v2", data={"datasets": datasets})
    assert prepare.main(["--cfg-path", str(recipe.source)]) == 0
    shown = capsys.readouterr()
    assert not shown.err
    assert re.search(r"^multitask_conversation +2 +0 +0 +0$", shown.out, re.MULTILINE)
