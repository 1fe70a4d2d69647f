"""The batches of a run: how data sets are mixed, missing pictures, what `training.prepare` finds."""

from __future__ import annotations

import pickle
import re
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from tests.training.test_data_formats import make_shard
from tests.training.tiny_stages import aligned_captions, draw_pictures, tiny_recipe, write_json
from training import prepare
from training.data.mixture import EpochPlan, MixtureDataset, RatioPlan, TooManyMissing
from training.data.readers import DatasetPaths, Example, MissingImage, Reader, make_example
from training.sequences import Batch
from training.train import main


class Numbers(Reader):
    """`size` examples that are their own index; those in `gone` have no picture."""

    def __init__(self, size: int, gone: frozenset[int] = frozenset()) -> None:
        super().__init__(DatasetPaths(annotations="", images=Path()))
        self.size, self.gone = size, gone

    def __len__(self) -> int:
        return self.size

    def image_path(self, index: int) -> Path | None:
        return Path() if index % 2 else None

    def check(self, index: int) -> None: ...

    def num_words(self, index: int) -> int:
        return index

    def example(self, index: int, rng: Random) -> Example:
        if index in self.gone:
            raise MissingImage(f"{index}.jpg")
        return make_example((str(index),), (str(rng.random()),))


def test_batches_are_drawn_by_ratio_and_each_data_set_is_gone_through_evenly() -> None:
    plan = RatioPlan([Numbers(10), Numbers(7)], [3, 1], [4, 2], length=2000, seed=1)
    batches = [plan.places(number) for number in range(2000)]
    assert all(len({which for which, _ in batch}) == 1 for batch in batches), "batches never mix data sets"
    drawn = Counter(batch[0][0] for batch in batches)
    assert drawn[0] / 2000 == pytest.approx(0.75, abs=0.03)
    assert {(which, len(batch)) for batch in batches for which, _ in batch} == {(0, 4), (1, 2)}
    first = [index for batch in batches for which, index in batch if which == 0]
    for start in range(0, len(first) - 10, 10):
        assert sorted(first[start : start + 10]) == list(range(10))
    again = RatioPlan([Numbers(10), Numbers(7)], [3, 1], [4, 2], length=2000, seed=1)
    assert [again.places(number) for number in (1999, 0, 700)] == [batches[number] for number in (1999, 0, 700)]


@pytest.mark.parametrize("by_length", [False, True])
def test_an_epoch_has_every_example_once(by_length: bool) -> None:
    plan = EpochPlan([Numbers(21), Numbers(20)], 3, group=2, epochs=2, seed=0, by_length=by_length)
    assert len(plan) == 2 * 14
    epochs = [[place for n in range(start, start + 14) for place in plan.places(n)] for start in (0, 14)]
    everything = {(0, index) for index in range(21)} | {(1, index) for index in range(20)}
    for epoch in epochs:
        assert set(epoch) == everything
        assert len(epoch) == 42  # one is there twice, to fill the last batch
    assert epochs[0] != epochs[1]


def test_batches_by_length_have_one_modality_and_even_weight() -> None:
    plan = EpochPlan([Numbers(120)], 5, group=4, epochs=1, seed=3, by_length=True)
    full = [[index for _, index in plan.places(number)] for number in range(20)]
    for batch in full:
        assert len({index % 2 for index in batch}) == 1
    for start in range(0, 20, 4):
        weights = [sum(batch) for batch in full[start : start + 4]]
        assert max(weights) - min(weights) <= 120


def empty_batch(examples: Any, rng: Random) -> Batch:
    values = [float(example.answers[0]) for example in examples]
    tensor = np.array(values)
    return Batch(tensor, tensor, tensor, None)  # type: ignore[arg-type]  # only looked at


def test_missing_pictures_are_counted_and_replaced_up_to_a_limit(caplog: pytest.LogCaptureFixture) -> None:
    reader = Numbers(6, gone=frozenset({2}))
    plan = RatioPlan([reader], [1], [6], length=3, seed=0)
    batches = MixtureDataset([reader], plan, empty_batch, seed=0, max_missing=2)
    questions = [example.questions[0] for example in batches.examples(0)]
    assert len(questions) == 6
    assert "2" not in questions
    assert batches.num_missing >= 1
    assert "2.jpg" in caplog.text
    with pytest.raises(TooManyMissing, match=r"training\.prepare"):
        [batches.examples(number) for number in range(3)]


@pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning", "ignore::DeprecationWarning")
def test_missing_pictures_are_counted_over_all_data_workers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tiny_recipe(tmp_path, "minigpt_v2", stage="3")
    for number in range(1, 6):
        (tmp_path / "data" / "align" / "image" / f"{number}.jpg").unlink()
    command = ["--cfg-path", str(recipe.source), "--options", "data.workers=2"]
    assert main([*command, "data.max_missing_images=6"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    # The other worker may have found one more before the run ends.
    assert re.match(r"error: [78] pictures could not be read \(the last: .*\.jpg.*\); `python -m training\.pre", error)
    assert main([*command, "data.max_missing_images=1000", f"output_dir={tmp_path / 'other'}"]) == 0


def test_a_batch_is_the_same_whenever_it_is_asked_for() -> None:
    reader = Numbers(9)
    plan = RatioPlan([reader], [1], [3], length=5, seed=0)
    first, second = (MixtureDataset([reader], plan, empty_batch, seed=7, max_missing=0) for _ in range(2))
    in_order = [first[number]["input_ids"].tolist() for number in range(5)]
    assert [second[number]["input_ids"].tolist() for number in (4, 2)] == [in_order[4], in_order[2]]
    other = MixtureDataset([reader], plan, empty_batch, seed=8, max_missing=0)
    assert other[0]["input_ids"].tolist() != in_order[0]


def test_prepare_finds_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tiny_recipe(tmp_path, "minigpt_v2", stage="3")
    assert prepare.main(["--cfg-path", str(recipe.source)]) == 0
    assert "Training can begin." in capsys.readouterr().out
    (tmp_path / "data" / "align" / "image" / "3.jpg").unlink()
    (tmp_path / "data" / "align" / "image" / "4.jpg").write_bytes(b"no picture")
    assert prepare.main(["--cfg-path", str(recipe.source), "--options", "data.max_missing_images=1"]) == 1
    output = capsys.readouterr()
    assert "Training can't begin" in output.out
    assert output.err.count("missing:") == 2
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
    write_json(tmp_path / "data" / "items.json", [several])
    make_shard(tmp_path / "data" / "00001.tar", 2)
    aligned_captions(tmp_path / "data" / "align")
    datasets = [
        {"format": "moe_llava", "annotations": "items.json", "batch_size": 1},
        {"format": "laion", "annotations": "{00000..00002}.tar", "batch_size": 1},
    ]
    recipe = tiny_recipe(tmp_path, "minigpt_v2", data={"datasets": datasets})
    assert prepare.main(["--cfg-path", str(recipe.source)]) == 0
    found = capsys.readouterr()
    assert re.search(r"^moe_llava +1 +0 +1 +0$", found.out, re.MULTILINE)
    assert re.search(r"^laion +1000 +2 +0 +0$", found.out, re.MULTILINE)
    assert "b.png" in found.err
