"""A public benchmark gives the same predictions over two GPUs as on the CPU, asked and chosen."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.on_gpu.tiny_families import FAMILIES, Gpus, question
from training.evaluation.scene_accuracy import main

BOTH = "cuda:0,cuda:1"
ASKED = ("What color is the circle?", "How many squares are there?")
CHOICES = ["one red circle", "two", "a blue square", "nothing at all"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two questions about pictures, as GQA and IconQA write them."""
    folder = tmp_path_factory.mktemp("data")
    rows = []
    for number, text in enumerate(ASKED):
        (folder / str(number)).mkdir()
        question(number)[0].images[0].save(folder / str(number) / "image.png")
        image = {"image": f"{number}/image.png", "image_id": str(number)}
        rows.append({**image, "question": text, "answer": CHOICES[0], "choices": CHOICES})
    (folder / "rows.json").write_text(json.dumps(rows))
    return folder


def predictions(task: str, family: str, device: str, data: Path, output: Path) -> list[str]:
    arguments = ["--cfg-path", f"eval_configs/tiny_{family}.yaml", "--options", f"device={device}", "dtype=float32"]
    arguments += ["--task", task, "--annotations", str(data / "rows.json"), "--images", str(data)]
    assert main([*arguments, "--output", str(output)]) == 0
    lines = (output / "predictions.jsonl").read_text().splitlines()
    return [entry["answer"] for entry in sorted(map(json.loads, lines), key=lambda entry: entry["key"])]


@pytest.mark.parametrize("family", FAMILIES)
def test_predictions_over_two_gpus_are_those_of_the_cpu(
    family: str, data: Path, tmp_path: Path, gpus: Gpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`gqa` goes through the engine; `iconqa` compares losses, which the last layers' GPU gives."""
    monkeypatch.setattr("training.evaluation.public.benchmark_run.CONCURRENT", 2)
    for task in ("gqa", "iconqa"):
        found = [predictions(task, family, device, data, tmp_path / device / task) for device in (BOTH, "cpu")]
        assert found[0] == found[1]
        assert len(found[0]) == len(ASKED)
    assert gpus[0].counts.reads > 0
