"""The command line's options about a server elsewhere. Nothing here imports httpx."""

from __future__ import annotations

import argparse

# Options about a model that is loaded here.
_LOADING = (
    *("device", "gpu_id", "dtype", "quantization", "copy_weights", "ocr", "gen", "download", "models_dir"),
    *("max_loaded", "allow_download", "terminal", "ask"),
)


def add_remote_options(parser: argparse.ArgumentParser) -> None:
    """`--server-url`, `--server-key` and `--server-model`."""
    group = parser.add_argument_group("in front of another server")
    group.add_argument(
        "--server-url", metavar="URL", help="load nothing, ask this OpenAI-compatible server: http://host:8000/v1"
    )
    group.add_argument(
        "--server-key", metavar="KEY", help="its key (also: the variable MINIVLM_SERVER_KEY, which no list shows)"
    )
    group.add_argument("--server-model", metavar="NAME", help="which of its models (default: the only one)")


def check_remote_options(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """End with one line for options that can't go together."""
    if args.server_url is None:
        return
    given = [f"--{name.replace('_', '-')}" for name in _LOADING if getattr(args, name) not in (None, False)]
    if given:
        parser.error(f"{given[0]} is about a model that is loaded here; with --server-url none is")
