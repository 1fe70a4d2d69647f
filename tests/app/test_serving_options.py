"""Options about chats and memory: they reach the configuration, and wrong ones are refused at once."""

from __future__ import annotations

import pytest

from app.arguments import DEFAULT_CONFIG, parse_arguments
from models.config import load_config
from models.memory.serving import Serving


def test_they_are_keys_of_the_configuration() -> None:
    line = "--max-chats 3 --max-queue 0 --kv-memory 1.5GiB --context-tokens 700"
    args = parse_arguments(line.split())
    config = load_config(DEFAULT_CONFIG, args.options)
    assert config.serving == Serving(max_chats=3, max_queue=0, kv_bytes=3 * 2**29)
    assert config.context_tokens == 700


def test_without_them_the_configuration_stays_as_it_is() -> None:
    assert parse_arguments([]).options == []
    assert load_config(DEFAULT_CONFIG).serving == Serving(max_chats=None, max_queue=32, kv_bytes=None)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--max-chats 0", "--max-chats: '0' is not a whole number from 1 up"),
        ("--max-queue -1", "--max-queue"),
        ("--kv-memory 2", "--kv-memory: '2' is not an amount of memory; write for example 2GiB"),
        ("--context-tokens many", "--context-tokens: 'many' is not a whole number from 1 up"),
    ],
)
def test_what_is_no_number_is_refused(line: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_arguments(line.split())
    assert message in capsys.readouterr().err
