"""The public benchmarks: scores against the official rules, made annotation files, resuming."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from models.errors import ConfigError
from models.loader import load_model
from tests.paths import DATA
from tests.training.tiny_stages import GOLDENS, draw_pictures, write_json
from training.data.annotations import DataError
from training.evaluation import scene_accuracy as evaluate
from training.evaluation.public import cider, scores
from training.evaluation.public.benchmark_run import choice_answerer, run_benchmark
from training.evaluation.public.benchmark_tasks import BENCHMARKS, Files
from training.scenes.samples import Sample

RECORDED = json.loads((DATA / "text_and_schedule.json").read_text())
RECORDED_VQA = json.loads((DATA / "vqa_accuracy.json").read_text())


@pytest.mark.parametrize("case", RECORDED["iou"], ids=lambda case: f"{case['iou']:.2f}")
def test_recorded_overlaps(case: dict[str, Any]) -> None:
    assert scores.pixel_iou(tuple(case["a"]), tuple(case["b"])) == pytest.approx(case["iou"], abs=1e-12)


@pytest.mark.parametrize(
    ("answer", "count", "accuracy"),
    [("cat", 10, 1.0), ("cat", 4, 1.0), ("cat", 3, 0.9), ("cat", 2, 0.6), ("cat", 1, 0.3), ("cat", 0, 0.0)],
)
def test_soft_accuracy_leaves_each_person_out_once(answer: str, count: int, accuracy: float) -> None:
    people = ["cat"] * count + [f"dog {n}" for n in range(10 - count)]
    assert scores.vqa_accuracy(answer, people) == pytest.approx(accuracy)


@pytest.mark.parametrize(
    ("raw", "normalised"),
    [
        ("The two cats.", "2 cats"),
        ("none", "0"),
        ("dont know", "don't know"),
        ("couldn'tve", "couldn't've"),
        ("couldntve", "couldntve"),
        ("3.5", "3.5"),
        ("1,000", "1000"),
        ("black/white", "black white"),
        ("yes, it is", "yes it is"),
        ("a man; an apple", "man apple"),
        ("its", "its"),
    ],
)
def test_official_normalisation(raw: str, normalised: str) -> None:
    assert scores.normalised(raw) == normalised


@pytest.mark.parametrize("case", RECORDED_VQA, ids=lambda case: repr(case["answer"]))
def test_recorded_vqa_accuracy(case: dict[str, Any]) -> None:
    """What the official script and MiniGPT-v2's changed copy of it give: they differ where people write articles."""
    assert scores.vqa_accuracy(case["answer"], case["people"]) == pytest.approx(case["vqav2"], abs=1e-9)
    assert scores.okvqa_accuracy(case["answer"], case["people"]) == pytest.approx(case["okvqa"], abs=1e-9)


def test_vizwiz_and_exact() -> None:
    assert scores.vizwiz_accuracy("Unanswerable", ["unanswerable", "UNANSWERABLE", "cup"]) == pytest.approx(2 / 3)
    assert scores.exact_match("Yes", "yes") == 1.0


@pytest.mark.parametrize(
    ("answer", "hit"),
    [
        ("{<10><10><50><50>}", 1.0),
        ("<unk>{<10> <10><50><50>} and more", 1.0),
        ("{<60><60><90><90>}", 0.0),
        ("the ball {<10><10><50><50>}", None),
        ("{<10><10><50>}", None),
    ],
)
def test_refer(answer: str, hit: float | None) -> None:
    assert scores.refer_hit(answer, (20, 10, 100, 50), (200, 100)) == hit


def test_pope() -> None:
    said = [scores.says_yes(answer) for answer in ("Yes.", "No, there is not", "It is not here. Yes", "Maybe", "no")]
    assert said == [True, False, False, True, False]
    figures = scores.yes_no_figures([True, True, False, False], [True, False, True, False])
    assert vars(figures) == {"accuracy": 0.5, "precision": 0.5, "recall": 0.5, "f1": 0.5, "yes_ratio": 0.5}
    assert scores.yes_no_figures([False], [True]).f1 == 0.0


@pytest.mark.skipif(shutil.which("java") is None, reason="the official tokenizer is a Java program")
def test_cider_prefers_the_right_caption() -> None:
    references = [["a red ball on grass", "a ball on the grass"], ["two men ride horses", "men riding horses"]]
    right = cider.score(["a red ball on the grass", "two men riding horses"], references)
    assert right > 1.0
    assert cider.score(["two men riding horses", "a red ball on the grass"], references) < 0.01


def test_cider_without_java(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(ConfigError, match="needs Java"):
        cider.score(["x"], [["x"]])
    check = BENCHMARKS["caption"].check_installed
    assert check is not None, "found out before anything is asked"
    with pytest.raises(ConfigError, match="needs Java"):
        check()
    monkeypatch.setattr(shutil, "which", lambda _: "java")
    monkeypatch.setattr("training.evaluation.public.cider.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match="needs pycocoevalcap"):
        check()


def annotation_files(folder: Path) -> dict[str, Files]:
    """One question of each benchmark about the same picture."""
    coco = "COCO_val2014_000000000009.jpg"
    train = "COCO_train2014_000000000009"
    draw_pictures(folder, [coco, f"{train}.jpg", "7/image.png"])
    refer = [{"img_id": f"{train}_3", "sents": "red ball", "bbox": [2, 2, 5, 5], "height": 30, "width": 20}]
    question = {"question_id": 1, "image_id": 9, "question": "how many?"}
    people = {"question_id": 1, "image_id": 9, "answers": [{"answer": "2"}] * 10}
    questions = write_json(folder / "questions.json", {"questions": [question]})
    annotations = write_json(folder / "annotations.json", {"annotations": [people]})
    plain = {"image": coco, "question": "how many?"}
    captions = {"images": [{"id": 9, "file_name": coco}], "annotations": [{"image_id": 9, "caption": "a ball"}]}
    lines = {
        "vsr": {"image": coco, "caption": "The cat is left of the dog.", "label": 1},
        "hateful_memes": {"id": 5, "img": coco, "label": 0, "text": "hello"},
        "pope": {"question_id": 1, "image": coco, "text": "Is there a dog?", "label": "yes"},
    }
    contents = {
        "gqa": [plain | {"answer": "2"}],
        "vizwiz": [plain | {"answers": [{"answer": "2"}] * 3}],
        "iconqa": [{"image_id": 7, "question": "how many?", "choices": ["one", "two"], "answer": 1}],
        "caption": captions,
    }
    files = {name: Files(write_json(folder / f"{name}.json", content), folder) for name, content in contents.items()}
    for name, line in lines.items():
        (folder / f"{name}.jsonl").write_text(json.dumps(line) + "\n\n")
        files[name] = Files(folder / f"{name}.jsonl", folder)
    files |= {name: Files(annotations, folder, questions) for name in ("vqav2", "okvqa")}
    refers = write_json(folder / "refer.json", refer)
    return files | {name: Files(refers, folder) for name in ("refcoco", "refcoco+", "refcocog")}


PROMPTS = {
    "refcoco": "[refer] give me the location of red ball",
    "vqav2": "[vqa] Based on the image, respond to this question with a short answer: how many?",
    "vizwiz": "[vqa] The question is 'how many?' Based on the image, answer the question with a single word or phrase. "
    "and reply 'unanswerable' when the provided information is insufficient",
    "vsr": "[vqa] Based on the image, is this statement true or false? The cat is left of the dog.",
    "hateful_memes": "This is an image writting 'hello'. Is this image hateful? Answer yes or no. Answer:",
    "pope": "[vqa] Based on the image, respond to this question with a short answer: Is there a dog?",
}
PERFECT = {"refcoco": "{<10><7><35><23>}", "vsr": "True", "hateful_memes": "no", "pope": "yes", "iconqa": "two"}


def test_every_benchmark_reads_its_files_and_gives_a_perfect_answer_full_marks(tmp_path: Path) -> None:
    files = annotation_files(tmp_path)
    assert files.keys() == BENCHMARKS.keys()
    for name, benchmark in BENCHMARKS.items():
        (question,) = benchmark.read(files[name], True)
        assert question.image.is_file()
        assert PROMPTS.get(name, question.text) == question.text
        if name != "caption":
            answer = PERFECT.get(name.removesuffix("+").removesuffix("g"), "2")
            figures = benchmark.score([answer], [question])
            assert next(iter(figures.values())) == 1.0, name
            wrong = next(iter(benchmark.score(["no" if name == "pope" else "-"], [question]).values()))
            assert wrong == 0.0, name


USED = {
    "refcoco": ("img_id", "sents", "bbox", "width", "height"),
    "gqa": ("image", "question", "answer"),
    "vizwiz": ("image", "question", "answers"),
    "iconqa": ("image_id", "question", "choices", "answer"),
    "vsr": ("image", "caption", "label"),
    "hateful_memes": ("id", "img", "text", "label"),
    "pope": ("question_id", "image", "text", "label"),
    "vqav2": ("question_id", "image_id", "answers"),
    "caption": ("image_id", "caption"),
}


@pytest.mark.parametrize(("name", "field"), [(name, field) for name, fields in USED.items() for field in fields])
def test_a_wrong_field_is_named_with_file_and_line(name: str, field: str, tmp_path: Path) -> None:
    files = annotation_files(tmp_path)[name]
    text = files.annotations.read_text()
    for value in (None, {"?": 1}):
        content = json.loads(text)
        items = content["annotations"] if name in ("vqav2", "caption") else content
        (items[0] if isinstance(items, list) else items)[field] = value
        lines = name in ("vsr", "hateful_memes", "pope")
        files.annotations.write_text("\n" + json.dumps(content, indent=None if lines else 1))
        with pytest.raises(DataError) as raised:
            BENCHMARKS[name].read(files, True)
        message = str(raised.value)
        assert message.startswith(f"{files.annotations}, line "), message
        assert f": field '{field}' is " in message, message


@pytest.mark.parametrize(("name", "allowed"), [("vsr", "0 or 1"), ("hateful_memes", "0 or 1"), ("pope", "yes or no")])
def test_a_label_of_another_kind_is_named(name: str, allowed: str, tmp_path: Path) -> None:
    files = annotation_files(tmp_path)[name]
    line = json.loads(files.annotations.read_text())
    files.annotations.write_text(json.dumps(line | {"label": "Perhaps"}))
    with pytest.raises(DataError, match=rf"jsonl, line 1: field 'label' is 'perhaps'; it must be {allowed}\.$"):
        BENCHMARKS[name].read(files, True)


def test_models_without_tasks_are_asked_in_their_own_words(tmp_path: Path) -> None:
    (question,) = BENCHMARKS["gqa"].read(annotation_files(tmp_path)["gqa"], False)
    assert question.text == "how many?\nAnswer the question using a single word or phrase."


def test_a_tiny_model_through_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = annotation_files(tmp_path)["pope"]
    arguments = ["--cfg-path", str(GOLDENS / "minigpt_v2" / "config.yaml"), "--task", "pope"]
    assert evaluate.main(arguments) == 2
    assert "--task pope needs --annotations" in capsys.readouterr().err
    arguments += ["--annotations", str(files.annotations), "--images", str(tmp_path), "--output", str(tmp_path / "o")]
    assert evaluate.main(arguments) == 0
    assert "yes_ratio" in capsys.readouterr().out
    assert evaluate.main([*arguments, "--limit", "0"]) == 2
    assert "--limit is 0; it must be 1 or more" in capsys.readouterr().err
    files.annotations.write_text("\n")
    assert evaluate.main([*arguments, "--output", str(tmp_path / "empty")]) == 2
    assert "there is no question in it" in capsys.readouterr().err
    report = json.loads((tmp_path / "o" / "results.json").read_text())
    assert (report["task"], report["questions"]) == ("pope", 1)
    assert len((tmp_path / "o" / "predictions.jsonl").read_text().splitlines()) == 1


def test_choices_are_ranked_by_loss_and_boxes_need_a_model_with_boxes(tmp_path: Path) -> None:
    files = annotation_files(tmp_path)
    model = load_model(GOLDENS / "minigpt4-vicuna0" / "config.yaml", device="cpu", report=None)
    (question,) = BENCHMARKS["iconqa"].read(files["iconqa"], False)
    ((_, chosen),) = choice_answerer(model)([question])
    assert chosen in question.choices
    assert set(run_benchmark(model, "iconqa", files["iconqa"], tmp_path / "icon")) == {"accuracy"}
    with pytest.raises(ConfigError, match="refcoco asks for boxes, which golden MiniGPT-4 does not give"):
        run_benchmark(model, "refcoco", files["refcoco"], tmp_path / "refer")


def test_a_report_says_when_and_on_what_it_was_made() -> None:
    found = evaluate.circumstances("cpu")
    assert found.keys() == {"date", "device", "torch", "transformers"}
    assert all(found.values())


def test_existence_has_its_pope_figure() -> None:
    samples = [Sample("existence", "is there a dog?", answer, ()) for answer in ("yes", "yes", "no", "no")]
    figures = evaluate.score("existence", samples, ["yes", "no", "yes.", "no"])
    assert figures == {"existence": 0.5, "existence_f1": 0.5}


def test_wrong_files(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"image": "x"}\n{"image"\n')
    with pytest.raises(DataError, match=r"x\.jsonl, line 2: not valid JSON"):
        BENCHMARKS["pope"].read(Files(tmp_path / "x.jsonl", tmp_path), True)
    with pytest.raises(DataError, match="needs --questions"):
        BENCHMARKS["vqav2"].read(Files(tmp_path / "x.jsonl", tmp_path), True)
    (tmp_path / "y.jsonl").write_text('\n{"image": "x", "question_id": 1}\n')
    with pytest.raises(DataError, match=r"y\.jsonl, line 2: field 'text' is missing"):
        BENCHMARKS["pope"].read(Files(tmp_path / "y.jsonl", tmp_path), True)


def test_refer_pictures_of_one_s_own_keep_their_names(tmp_path: Path) -> None:
    """COCO's names end after 27 characters, others where they end."""
    own = "my_photo_number_000000000000001_long_name"
    items = [
        {"img_id": name, "sents": "the green heart", "bbox": [78, 363, 60, 56], "width": 432, "height": 432}
        for name in (own, "COCO_train2014_000000000007_12", "COCO_val2014_000000000008")
    ]
    write_json(tmp_path / "x.json", items)
    draw_pictures(tmp_path, [f"{own}.png"])
    questions = BENCHMARKS["refcoco"].read(Files(tmp_path / "x.json", tmp_path), True)
    names = [question.image.name for question in questions]
    assert names == [f"{own}.png", "COCO_train2014_000000000007.jpg", "COCO_val2014_000000000008.jpg"]
