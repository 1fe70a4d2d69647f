"""The command line of demo.py: its options, and what they default to.

Nothing here imports torch or gradio, so that `--help`, `--version` and wrong arguments answer at once.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence
from pathlib import Path

from app.remote.options import add_remote_options, check_remote_options
from app.serving_options import add_serving_options, serving_overrides
from models.command_line import CONFIG_DIR, OneLineParser, place, version

LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")
DEFAULT_CONFIG = CONFIG_DIR / "tiny_minigpt_v2.yaml"


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line of demo.py. `device` is filled from `--gpu-id`; `cfg_path` is a path that may not exist."""
    parser = OneLineParser(
        prog="demo.py",
        description="Chat about images in the browser with a released vision-language checkpoint.",
        epilog="Without --cfg-path it serves the bundled tiny model, which needs no download and no GPU.",
    )
    parser.add_argument(
        "--cfg-path", type=place, action="append", metavar="YAML", help="configuration to load (see --list); repeatable"
    )
    parser.add_argument(
        "--list",
        nargs="*",
        metavar="WORD",
        help="print every configuration, its files and sizes; only those that are ready, missing, of a family, a name",
    )
    parser.add_argument("--download", action="store_true", help="first fetch every file of --cfg-path that is not here")
    parser.add_argument("--version", action="version", version=f"MiniVLM Chat {version()}")
    add_model_arguments(parser)
    add_remote_options(parser)
    _add_library_arguments(parser)
    _add_server_arguments(parser)
    _add_terminal_arguments(parser)
    args = parser.parse_args(argv)
    if (args.num_beams > 1 or args.prompt_lookup) and not (args.terminal or args.ask):
        parser.error("--num-beams and --prompt-lookup are for --terminal and --ask; the page has neither")
    if args.image and not args.terminal:
        parser.error("--image is for --terminal; the page has a button for it, and the lines of --ask name their own")
    if (args.models_dir or args.max_loaded or args.feedback or args.allow_download) and (args.terminal or args.ask):
        parser.error("--models-dir, --max-loaded, --feedback and --allow-download are for the page")
    _check_allow_download(parser, args)
    check_remote_options(parser, args)
    args.is_default_config = args.cfg_path is None
    if args.output and not args.ask:
        parser.error("--output is for --ask")
    args.cfg_paths = args.cfg_path or [Path(os.environ.get("MINIVLM_CFG_PATH", DEFAULT_CONFIG))]
    args.cfg_path = args.cfg_paths[0]
    if len(args.cfg_paths) > 1 and (args.terminal or args.ask):
        parser.error("several --cfg-path are for the page; --terminal and --ask begin with one model")
    settle_model_arguments(args)
    return args


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """How a model is loaded and served, for every command that does; `settle_model_arguments` makes sense of them."""
    model = parser.add_argument_group("model")
    where = model.add_mutually_exclusive_group()
    where.add_argument("--device", type=_device, metavar="D", help="cpu, mps, cuda, cuda:N or cuda:0,cuda:1")
    where.add_argument("--gpu-id", type=_count, metavar="N", help="the same as --device cuda:N")
    model.add_argument("--dtype", choices=("auto", "float32", "bfloat16", "float16"), help="numbers of the weights")
    model.add_argument(
        "--quantization",
        choices=("auto", "none", "8bit", "4bit"),
        help="shrink the language model's weights (default: only where they do not fit otherwise)",
    )
    model.add_argument("--copy-weights", action="store_true", help="copy weights that stay in their files otherwise")
    model.add_argument("--ocr", action="store_true", help="the same as --options ocr=true (families that have it)")
    model.add_argument("--gen", action="store_true", help="the same as --options generate=true (families that have it)")
    model.add_argument(
        "--options",
        nargs="+",
        action="append",
        metavar="KEY=VALUE",
        help="override keys of the YAML, for example sampling.temperature=0.2",
    )
    add_serving_options(parser)


def settle_model_arguments(args: argparse.Namespace) -> None:
    """`options` becomes one list of all keys to override, `device` is filled from `--gpu-id`."""
    args.options = [option for group in args.options or [] for option in group]
    args.options += serving_overrides(args)
    args.options += ["ocr=true"] * args.ocr + ["generate=true"] * args.gen
    if args.gpu_id is not None:
        args.device = f"cuda:{args.gpu_id}"


def _add_library_arguments(parser: argparse.ArgumentParser) -> None:
    library = parser.add_argument_group("several models, to be chosen on the page")
    library.add_argument("--models-dir", type=place, metavar="DIR", help="offer every YAML of this folder, too")
    library.add_argument(
        "--max-loaded", type=positive, metavar="N", help="models in memory at once (default: as many as fit)"
    )
    library.add_argument(
        "--allow-download", action="store_true", help="let the page fetch what a model lacks (local pages only)"
    )


def is_open_to_others(args: argparse.Namespace) -> bool:
    """Whether more than this machine reaches the page: by a network, a share link, or through a reverse proxy."""
    return bool(args.share or args.trusted_proxy or args.root_path or args.host not in LOCAL_HOSTS)


def _check_allow_download(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Visitors who fill the disk of a machine should be those who sit at it."""
    if args.allow_download and is_open_to_others(args):
        parser.error("--allow-download is for a page that only this machine reaches; fetch with python -m models fetch")


def _add_server_arguments(parser: argparse.ArgumentParser) -> None:
    # Spaces and containers set these two variables; without them nobody but this machine is served.
    host = os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1")
    port = os.environ.get("GRADIO_SERVER_PORT", "7860")
    server = parser.add_argument_group("server")
    add_address_arguments(server, host=host, port=port)
    server.add_argument("--share", action="store_true", help="also open a public link through gradio's servers")
    server.add_argument("--auth", type=_auth, metavar="USER:PASSWORD", help="ask visitors for this name and password")
    server.add_argument("--allow-host", action="append", default=[], metavar="NAME", help="answer to this name, too")
    server.add_argument(
        "--trusted-proxy",
        action="append",
        default=[],
        metavar="ADDRESS",
        help="believe what this reverse proxy (an address or network) says about who its clients are",
    )
    server.add_argument(
        "--grace",
        type=_count,
        default=10,
        metavar="SECONDS",
        help="for answers to end when the server stops (%(default)s)",
    )
    server.add_argument("--root-path", metavar="PATH", help="where a reverse proxy shows the page, if not at /")
    server.add_argument(
        "--feedback", type=place, metavar="FILE", help="ask visitors for thumbs and votes on answers, kept in this file"
    )


def add_address_arguments(server: argparse._ArgumentGroup, *, host: str, port: str) -> None:
    """Where `/v1` is, and who may ask it."""
    server.add_argument("--host", default=host, help="address to listen on; 0.0.0.0 is every network (%(default)s)")
    server.add_argument("--port", type=_count, default=port, help="port to listen on; 0 takes any (%(default)s)")
    server.add_argument(
        "--api-key",
        type=_key,
        default=os.environ.get("MINIVLM_API_KEY") or None,
        metavar="KEY",
        help="ask programs for this key, and visitors too (also: the variable MINIVLM_API_KEY, which no list shows)",
    )
    server.add_argument(
        "--allow-origin",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="let web pages of this address ask, for example https://my.site; * is all (default: none)",
    )


def _add_terminal_arguments(parser: argparse.ArgumentParser) -> None:
    terminal = parser.add_argument_group("without the page")
    kind = terminal.add_mutually_exclusive_group()
    kind.add_argument("--terminal", action="store_true", help="chat in this terminal")
    kind.add_argument("--ask", type=place, metavar="JSONL", help="answer a file of questions, one JSON line each")
    terminal.add_argument(
        "--output", type=place, metavar="JSONL", help="answers of --ask; goes on where it was stopped"
    )
    terminal.add_argument("--image", type=place, metavar="FILE", help="the image that a terminal chat begins with")
    terminal.add_argument("--num-beams", type=positive, default=1, metavar="N", help="beam search (default: none)")
    terminal.add_argument("--prompt-lookup", type=_count, default=0, metavar="N", help="guess N tokens ahead")


def positive(text: str) -> int:
    if (value := _count(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 up")
    return value


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 up")
    return int(text)


def _device(text: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?|cuda:\d+(,cuda:\d+)+", text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a device; choose auto, cpu, mps, cuda or cuda:N, or several as cuda:0,cuda:1"
        )
    return text


def _key(text: str) -> str:
    if not text or not text.isascii() or any(char.isspace() for char in text):
        raise argparse.ArgumentTypeError("a key is a word of letters, digits and signs, without spaces")
    return text


def _auth(text: str) -> tuple[str, str]:
    user, colon, password = text.partition(":")
    if not (user and colon and password):
        raise argparse.ArgumentTypeError("write USER:PASSWORD, neither part empty")
    return user, password
