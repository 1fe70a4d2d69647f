"""Command-line options about chats and their memory: each is a key of the YAML by another name."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from models.memory.serving import parse_bytes

_KEYS = ("max_chats", "max_queue", "kv_memory", "context_tokens")


def add_serving_options(parser: argparse.ArgumentParser) -> None:
    """`--max-chats`, `--max-queue`, `--kv-memory` and `--context-tokens`."""
    group = parser.add_argument_group("chats")
    group.add_argument("--max-chats", type=_number(1), metavar="N", help="answered at once (default: few)")
    group.add_argument("--max-queue", type=_number(0), metavar="N", help="that wait for a place (default: 32)")
    group.add_argument("--kv-memory", type=_memory, metavar="SIZE", help="most for keys and values, for example 2GiB")
    group.add_argument("--context-tokens", type=_number(1), metavar="N", help="longest prompt with its answer")


def serving_overrides(args: argparse.Namespace) -> list[str]:
    """What was given, as `--options` would have it."""
    return [f"{key}={value}" for key in _KEYS if (value := getattr(args, key)) is not None]


def _number(least: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} up")
        return int(text)

    return parse


def _memory(text: str) -> str:
    try:
        parse_bytes(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text
