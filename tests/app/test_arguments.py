"""The options of the command line, their defaults, and the environment variables of hosted servers."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.arguments import DEFAULT_CONFIG, parse_arguments


def test_arguments_reach_the_model_and_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    options = ["--options", "a.b=1", "c=2", "--options", "d=3"]
    args = parse_arguments(["--gpu-id", "1", *options, "--auth", "me:se:cret", "--share"])
    assert (args.device, args.options, args.auth) == ("cuda:1", ["a.b=1", "c=2", "d=3"], ("me", "se:cret"))
    plain = parse_arguments([])
    assert (plain.cfg_path, plain.options, plain.share, plain.auth) == (DEFAULT_CONFIG, [], False, None)
    assert (plain.host, plain.port) == ("127.0.0.1", 7860)
    for name, value in (("SERVER_NAME", "0.0.0.0"), ("SERVER_PORT", "1234")):
        monkeypatch.setenv(f"GRADIO_{name}", value)
    monkeypatch.setenv("MINIVLM_CFG_PATH", "other.yaml")
    hosted = parse_arguments([])
    assert (hosted.host, hosted.port, hosted.cfg_path) == ("0.0.0.0", 1234, Path("other.yaml"))


@pytest.mark.parametrize("more", [["--share"], ["--host", "0.0.0.0"], ["--trusted-proxy", "10.0.0.1"], ["--ask", "x"]])
def test_only_a_local_page_downloads(more: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert parse_arguments(["--allow-download"]).allow_download
    with pytest.raises(SystemExit):
        parse_arguments(["--allow-download", *more])
    assert "--allow-download" in capsys.readouterr().err
