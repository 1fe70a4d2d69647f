"""What `verify` advises: a command, a path, what it can't know."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import pytest

from models.__main__ import main
from models.loader import load_model
from tests.models.inspection.verifying import STAGE4, TINY, verify
from tests.paths import ROOT


def test_the_command_that_serves_has_the_options_that_were_verified(
    tinygpt_v: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = shutil.copy(TINY / "tiny_tinygpt_v" / STAGE4, tmp_path / "an other.pth")
    status, out, _ = verify(tinygpt_v, capsys, f"checkpoint={other}")
    assert status == 0
    assert f"--device cpu --options 'checkpoint={other}'" in out


def test_it_is_said_what_sizes_cannot_tell(tinygpt_v: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = verify(tinygpt_v, capsys, "is_toy=false")
    assert "only their sha256 says: other weights of the same sizes look alike" in out


def test_a_path_from_the_current_folder_is_given_in_full(
    tinygpt_v: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here" / "mine"
    here.mkdir(parents=True)
    shutil.copy(TINY / "tiny_tinygpt_v" / STAGE4, here / "x.pth")
    monkeypatch.chdir(here.parent)
    status, _, error = verify(tinygpt_v, capsys, "checkpoint=mine/x.pth")
    assert status == 2
    assert f"did you mean {here / 'x.pth'}?" in error


def test_a_language_model_of_an_unknown_kind_is_a_short_line(capsys: pytest.CaptureFixture[str]) -> None:
    yaml = ROOT / "eval_configs" / "tiny_minigpt_v2.yaml"
    status, _, error = verify(yaml, capsys, f"language_model={TINY / 'tiny_mini_gemini'}")
    assert status == 2
    assert "its values can't be used" in error
    assert len(error) < 600


def test_a_folder_of_weights_alone_is_not_complete(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path(shutil.copytree(TINY / "tiny_mini_gemini", tmp_path / "mgm"))
    assert verify(folder, capsys)[0] == 0
    (folder / "config.json").unlink()
    status, _, error = verify(folder, capsys)
    assert status == 2
    assert f"{folder} has no config.json" in error


def test_a_command_is_one_that_a_shell_takes(
    tinygpt_v: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    yaml = tinygpt_v.rename(tmp_path / "my model's.yaml")
    _, out, _ = verify(yaml, capsys)
    command = next(line for line in out.splitlines() if line.startswith("Serve it: "))
    assert shlex.split(command)[2:6] == ["python", "demo.py", "--cfg-path", str(yaml)]
    yaml.write_text(yaml.read_text().replace("phi-2", "phi-3"))
    _, _, error = verify(yaml, capsys)
    assert shlex.split(error[error.index("This fetches") :])[-1] == str(yaml)


def test_a_configuration_with_the_mark_of_windows_editors_is_read(
    tinygpt_v: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "tiny_tinygpt_v" / "phi-2" / "config.json"
    file.write_text(file.read_text(), encoding="utf-8-sig")
    assert verify(tinygpt_v, capsys)[0] == 0
    load_model(tinygpt_v, device="cpu", report=None)


def test_a_folder_that_is_called_like_a_yaml_is_not_meant(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.yaml").mkdir()
    status, _, error = verify(tmp_path / "mine.yaml", capsys)
    assert status == 2
    assert error.startswith(f"error: {tmp_path / 'mine.yaml'} is a folder. Give a YAML file")


@pytest.mark.parametrize("command", [["verify"], ["fetch"], ["convert", "out"]], ids=lambda words: words[0])
def test_a_server_elsewhere_has_no_files(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    yaml = tmp_path / "theirs.yaml"
    yaml.write_text("family: remote\nurl: http://127.0.0.1:9\n")
    assert main([command[0], str(yaml), *command[1:]]) == 2
    assert f"{yaml} is of a server elsewhere (family remote), so there are no files of it" in capsys.readouterr().err
