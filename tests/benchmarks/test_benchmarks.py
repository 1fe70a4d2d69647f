"""The benchmarks run, compare what they say they compare, and notice answers that differ. Times are never looked at."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch

from benchmarks import __main__ as command
from benchmarks import chats, experts, load_time, mixed_load, quantization, turns
from benchmarks.measure import Clock, Figure, SpeedReport, take_turns
from benchmarks.originals import dispatch_by_einsum
from benchmarks.random_models import BACKBONES, FORMAT, SMALL, LetterTokenizer, random_model
from benchmarks.report import DOCUMENT, RESULTS, as_markdown, as_values, circumstances, summary, write_summary
from engine.packed_weights import pack_weights
from tests.paths import ROOT
from tests.tiny_model import quick_process

CLOCK = Clock(torch.device("cpu"))
FP32 = torch.float32


@pytest.fixture(autouse=True, scope="module")
def _quick() -> Iterator[None]:
    with quick_process():
        yield


@pytest.fixture
def packs_as_large_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine changes these small models as it does those that are measured."""
    for module in ("engine.chat_engine", "benchmarks.experts"):
        monkeypatch.setattr(f"{module}.pack_weights", partial(pack_weights, least_weights=0))


@pytest.mark.usefixtures("packs_as_large_models")
@pytest.mark.parametrize("backbone", BACKBONES)
def test_chats_on_every_backbone_get_the_answers_of_generate(backbone: str) -> None:
    report = SpeedReport()
    chats.run(backbone, SMALL, chats.SMALL, FP32, CLOCK, report, {"chats": 2.4})
    assert list(report.equal.values()) == [True]
    assert [figure.unit for figure in report.figures] == ["tokens/s", "s", "tokens/s"]
    assert [figure.goal for figure in report.figures] == [2.4, None, None]
    assert all(figure.ours > 0 and figure.original for figure in report.figures)


@pytest.mark.usefixtures("packs_as_large_models")
def test_later_turns_get_the_answers_of_generate() -> None:
    report = SpeedReport()
    turns.run("llama", SMALL, turns.SMALL, FP32, CLOCK, report, {})
    assert list(report.equal.values()) == [True] * 3


def test_a_history_has_the_tokens_it_says() -> None:
    model = random_model("llama", SMALL, context_tokens=512)
    for num_turns, size in ((4, 290), (1, 100)):
        conversation = turns.history(num_turns, size, model.num_image_tokens, seed=1)
        tokens = len(model.embed_prompt([*conversation, turns.question(1, 0)]))
        added = tokens - len(FORMAT.user_prefix + FORMAT.assistant_prefix) - 1
        assert size - num_turns < added <= size


@pytest.mark.usefixtures("packs_as_large_models")
def test_mixed_load_and_loading_report_their_figures() -> None:
    report = SpeedReport()
    mixed_load.run("llama", SMALL, mixed_load.SMALL, FP32, CLOCK, report, 2.0)
    load_time.run(load_time.SMALL, CLOCK, report, {"same": 100, "cast": 8, "memory": 1.25})
    assert [figure.at_most for figure in report.figures] == [True, False, True, False, True]
    assert [figure.goal for figure in report.figures] == [2.0, 100, 1.25, 8, None]


def test_both_ways_of_loading_give_the_same_weights(tmp_path: Path) -> None:
    path, size = load_time.write_checkpoint(tmp_path, load_time.SMALL)
    assert size == sum(f.stat().st_size for f in tmp_path.rglob("*") if f.suffix in (".pth", ".safetensors"))
    ours, originals = (load_time.measure(way, path, "float16")["sum"] for way in ("ours", "original"))
    assert ours == pytest.approx(originals, rel=1e-3)


def test_quantized_logits_are_compared_over_the_greedy_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = next(path for path in quantization.RECORDED if path.parent.name == "tinygptv-stage3")
    assert quantization.main(["--configs", str(config), "--output", str(tmp_path)]) == 0
    (path,) = tmp_path.glob("*-quantization.json")
    eight, four = json.loads(path.read_text())["differences"]
    assert (eight["mode"], four["mode"]) == ("8bit", "4bit")
    assert 0 < eight["mean"] < eight["largest"]
    assert 0 < eight["relative"] < four["relative"] < 1.4  # unrelated logits of one size: the square root of 2
    assert four["same_tokens"] < eight["same_tokens"] <= 1
    assert eight["num_tokens"] >= 6
    assert "| tinygptv-stage3 | 8bit |" in path.with_suffix(".md").read_text()
    # Nothing is found where nothing was quantized.
    load = quantization._load
    monkeypatch.setattr(quantization, "_load", lambda path, _: load(path, "none"))
    assert {(same.largest, same.same_tokens) for same in quantization.compare(config)} == {(0, 1)}
    capsys.readouterr()


def test_the_peak_of_a_process_is_its_own() -> None:
    large = b"1" * (700 * 2**20)  # in this process, the parent
    program = "from benchmarks.measure import peak_memory; print(peak_memory())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert 20 * 2**20 < int(done.stdout) < len(large)


@pytest.mark.parametrize("count", [1, 7])
def test_the_einsum_dispatch_computes_what_the_block_computes(count: int) -> None:
    block = experts.make_block(32, 48, FP32, torch.device("cpu"))
    tokens = torch.randn(count, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(dispatch_by_einsum(block, tokens), block(tokens), rtol=1e-4, atol=1e-5)


def test_answers_go_back_into_a_conversation_token_by_token() -> None:
    tokenizer = LetterTokenizer(400)
    ids = list(range(3, 400))
    assert tokenizer.encode(tokenizer.decode(ids)) == ids
    assert tokenizer.encode("ab", add_bos=True) == [1, 3 + 97, 3 + 98]


def test_variants_take_turns_and_medians_are_reported() -> None:
    order: list[str] = []

    def variant(name: str, values: list[float]) -> dict[str, float]:
        order.append(name)
        return {"time": values[order.count(name) - 1]}

    found = take_turns(
        {"a": lambda _: variant("a", [1, 9, 2]), "b": lambda _: variant("b", [4, 5, 6])},
        repeats=3,
    )
    assert order == ["a", "b"] * 3
    assert (found.median("a", "time"), found.median("b", "time")) == (2, 5)
    assert found.ratio("time", "b", "a") == 3  # of 4, 5/9 and 3


def test_a_different_answer_fails_the_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command.Comparisons, "chats", lambda _, report: report.check_equal("here", ["a"], ["b"]))
    assert command.main(["--small", "--only", "chats", "--output", str(tmp_path)]) == 1
    assert "differ" in capsys.readouterr().err
    (path,) = tmp_path.glob("*-cpu.json")
    assert json.loads(path.read_text())["equal"] == {"here": False}
    assert "DIFFERENT in: here" in path.with_suffix(".md").read_text()


def test_a_run_says_when_on_what_and_with_which_versions(tmp_path: Path) -> None:
    assert command.main(["--small", "--only", "mixed", "--output", str(tmp_path)]) == 0
    (path,) = tmp_path.glob("*-cpu.json")
    values = json.loads(path.read_text())
    assert values["date"] in path.name
    assert values["versions"]["torch"] == str(torch.__version__)
    assert values["device"]
    assert values["figures"][0]["name"].startswith("mixed load")


def report_of(*ratios: float) -> SpeedReport:
    report = SpeedReport()
    for number, ratio in enumerate(ratios):
        report.add(
            Figure(name="chats", setting=f"model {number}", unit="s", ours=1, original=ratio, ratio=ratio, goal=2)
        )
    return report


def test_the_table_of_speed_shows_ranges_and_goals(tmp_path: Path) -> None:
    values = as_values(report_of(2.5, 3.25), circumstances(torch.device("cpu")))
    assert "| chats | 2.5 to 3.25 | ≥ 2 |" in summary(values)
    assert "| chats | model 1 | 3.25 | ≥ 2 | 1 | 3.25 | s |" in as_markdown(values)
    document = "before\n<!-- speed:begin -->\nold\n<!-- speed:end -->\nafter"
    assert "Not measured yet." in write_summary(document, tmp_path)
    (tmp_path / "2000-01-01-cpu.json").write_text(json.dumps(values))
    written = write_summary(document, tmp_path)
    assert "2.5 to 3.25" in written
    assert "old" not in written
    assert written.startswith("before\n")
    assert written.endswith("\nafter")


def test_the_document_shows_the_newest_run() -> None:
    text = (ROOT / DOCUMENT).read_text(encoding="utf-8")
    assert "<!-- speed:begin -->" in text
    assert write_summary(text, ROOT / RESULTS) == text


def test_rows_of_one_comparison_with_several_goals_can_be_told_apart() -> None:
    report = SpeedReport()
    for setting, ratio, goal in (("a, fp32", 2.5, 2), ("b, fp32", 3.5, 2), ("a, bf16", 4.5, 3)):
        report.add(Figure(name="chats", setting=setting, unit="s", ours=1, original=ratio, ratio=ratio, goal=goal))
    table = summary(as_values(report, circumstances(torch.device("cpu"))))
    assert "| chats (fp32) | 2.5 to 3.5 | ≥ 2 |\n| chats (a, bf16) | 4.5 | ≥ 3 |" in table


def test_goals_are_met_on_their_side() -> None:
    figure = Figure(name="x", setting="y", unit="s", ours=1, ratio=2.0, goal=2.5)
    assert figure.is_met is False
    assert Figure(name="x", setting="y", unit="s", ours=1, ratio=2.0, goal=2.5, at_most=True).is_met is True
    assert Figure(name="x", setting="y", unit="s", ours=1, ratio=2.0).is_met is None
