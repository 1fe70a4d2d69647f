"""Around the page: command-line arguments, the list of configurations, and the server's settings.

Nothing here imports torch or gradio at the top, so that `--help`, `--version` and argument errors answer at once.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import socket
import sys
import threading
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from models.errors import ConfigError, MiniVLMError, RequestError

if TYPE_CHECKING:
    import gradio as gr
    from PIL import Image

    from app.engine import ChatEngine
    from models.vision_language_model import VisionLanguageModel

ROOT = Path(__file__).resolve().parent.parent
CONFIG_DIR = ROOT / "eval_configs"
DEFAULT_CONFIG = CONFIG_DIR / "tiny_minigpt_v2.yaml"


class OneLineParser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, as all errors of this program are."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message} (see {self.prog} --help)\n")


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line of demo.py. `device` is filled from `--gpu-id`; `cfg_path` is a path that may not exist."""
    parser = OneLineParser(
        prog="demo.py",
        description="Chat about images in the browser with a released vision-language checkpoint.",
        epilog="Without --cfg-path it serves the bundled tiny model, which needs no download and no GPU.",
    )
    parser.add_argument("--cfg-path", type=Path, metavar="YAML", help="configuration to load (see --list)")
    parser.add_argument("--list", action="store_true", help="print every configuration and whether its files are here")
    parser.add_argument("--version", action="version", version=f"MiniVLM Chat {version()}")
    _add_model_arguments(parser)
    _add_server_arguments(parser)
    _add_terminal_arguments(parser)
    args = parser.parse_args(argv)
    if (args.num_beams > 1 or args.prompt_lookup) and not (args.terminal or args.ask):
        parser.error("--num-beams and --prompt-lookup are for --terminal and --ask; the page has neither")
    if args.image and not args.terminal:
        parser.error("--image is for --terminal; the page has a button for it, and the lines of --ask name their own")
    args.cfg_path = args.cfg_path or Path(os.environ.get("MINIVLM_CFG_PATH", DEFAULT_CONFIG))
    args.options = [option for group in args.options or [] for option in group]
    args.options += ["ocr=true"] * args.ocr + ["generate=true"] * args.gen
    if args.gpu_id is not None:
        args.device = f"cuda:{args.gpu_id}"
    return args


def _add_model_arguments(parser: argparse.ArgumentParser) -> None:
    model = parser.add_argument_group("model")
    where = model.add_mutually_exclusive_group()
    where.add_argument("--device", type=_device, metavar="D", help="cpu, mps, cuda or cuda:N (default: the YAML's)")
    where.add_argument("--gpu-id", type=_count, metavar="N", help="the same as --device cuda:N")
    model.add_argument("--dtype", choices=("auto", "float32", "bfloat16", "float16"), help="numbers of the weights")
    model.add_argument("--quantization", choices=("none", "8bit", "4bit"), help="shrink the language model's weights")
    model.add_argument("--ocr", action="store_true", help="the same as --options ocr=true (families that have it)")
    model.add_argument("--gen", action="store_true", help="the same as --options generate=true (families that have it)")
    model.add_argument(
        "--options",
        nargs="+",
        action="append",
        metavar="KEY=VALUE",
        help="override keys of the YAML, for example sampling.temperature=0.2",
    )


def _add_server_arguments(parser: argparse.ArgumentParser) -> None:
    # Spaces and containers set these two variables; without them nobody but this machine is served.
    host = os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1")
    port = os.environ.get("GRADIO_SERVER_PORT", "7860")
    server = parser.add_argument_group("server")
    server.add_argument("--host", default=host, help="address to listen on; 0.0.0.0 is every network (%(default)s)")
    server.add_argument("--port", type=_count, default=port, help="port to listen on; 0 takes any (%(default)s)")
    server.add_argument("--share", action="store_true", help="also open a public link through gradio's servers")
    server.add_argument("--auth", type=_auth, metavar="USER:PASSWORD", help="ask visitors for this name and password")


def _add_terminal_arguments(parser: argparse.ArgumentParser) -> None:
    terminal = parser.add_argument_group("without the page")
    kind = terminal.add_mutually_exclusive_group()
    kind.add_argument("--terminal", action="store_true", help="chat in this terminal")
    kind.add_argument("--ask", type=Path, metavar="JSONL", help="answer a file of questions, one JSON line each")
    terminal.add_argument("--image", type=Path, metavar="FILE", help="the image that a terminal chat begins with")
    terminal.add_argument("--num-beams", type=_positive, default=1, metavar="N", help="beam search (default: none)")
    terminal.add_argument("--prompt-lookup", type=_count, default=0, metavar="N", help="guess N tokens ahead")


def _positive(text: str) -> int:
    if (value := _count(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 up")
    return value


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 up")
    return int(text)


def _device(text: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a device; choose auto, cpu, mps, cuda or cuda:N")
    return text


def _auth(text: str) -> tuple[str, str]:
    user, colon, password = text.partition(":")
    if not (user and colon and password):
        raise argparse.ArgumentTypeError("write USER:PASSWORD, neither part empty")
    return user, password


def version() -> str:
    """The program's version, from pyproject.toml, which is the only place that holds it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return str(project["version"])


def describe_configs(folder: Path = CONFIG_DIR) -> str:
    """Every YAML of a folder with its family, name, the files it needs and whether they are here, for `--list`."""
    blocks = [_describe_config(path) for path in sorted(folder.glob("*.yaml"))]
    return "\n\n".join(blocks) if blocks else f"No configurations in {folder}."


def _describe_config(path: Path) -> str:
    from models.checkpoints import needed_files
    from models.config import load_config

    shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    try:
        config = load_config(path)
    except MiniVLMError as error:  # one broken file must not hide the others
        return f"{shown}\n  error: {error}"
    files = [(file.state, file) for file in needed_files(config)]
    states = {state for state, _ in files}
    verdict = "files missing" if "missing" in states else "ready" if states <= {"here"} else "will be downloaded"
    lines = [f"{shown}  [{verdict}]", f"  {config.name or path.stem} ({config.family})"]
    for state, file in files:
        lines.append(f"  {state:<8} {file.key:<15} {file.value}")
        if state != "here":
            lines.append(f"{'':26} {'Downloaded at the first start. ' if state == 'on hub' else ''}{file.hint}")
    return "\n".join(lines)


def show(text: str) -> None:
    """Print, and end quietly when the reader has had enough (`demo.py --list | head`)."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains again at exit


def free_port(host: str, port: int) -> int:
    """The port to serve on, checked to be free; 0 becomes one that is. Raises RequestError when it is taken."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port whose last server just closed is free
        try:
            probe.bind((host, port))
        except OverflowError as error:
            raise RequestError(f"--port {port} does not exist; choose one from 1 to 65535.") from error
        except OSError as error:
            reason = error.strerror or str(error)
            raise RequestError(f"can't listen on {host}:{port} ({reason}); try another --port or --host.") from error
        return int(probe.getsockname()[1])


def be_private() -> None:
    """Switch off the libraries' telemetry; must come before their first import."""
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")


def run(demo: gr.Blocks, args: argparse.Namespace, port: int, engine: ChatEngine) -> None:
    """Serve the page until Ctrl+C, which arrives as KeyboardInterrupt."""
    if args.share and not args.auth:
        print("note: --share without --auth lets anyone who has the link use this machine.", file=sys.stderr)
    from app.metrics import UsageLog, add_metrics, log_to_stderr

    app, local_url, share_url = demo.launch(
        server_name=args.host, server_port=port, share=args.share, auth=args.auth, prevent_thread_lock=True, quiet=True
    )
    print("\n".join(f"Open {url} in a browser; Ctrl+C stops." for url in (local_url, share_url) if url), flush=True)
    logging.getLogger("uvicorn.error").addFilter(is_worth_a_line)
    add_metrics(app, engine)
    log_to_stderr()
    try:
        with UsageLog(engine):
            threading.Event().wait()
    finally:
        demo.close(verbose=False)


def is_worth_a_line(record: logging.LogRecord) -> bool:
    """Whether to log it: not the seventy lines about a visitor who left while something was being sent."""
    error = record.exc_info[1] if record.exc_info else None
    return type(error).__name__ != "ClientDisconnect"  # starlette's, which is gradio's to import


def check_before_loading(args: argparse.Namespace) -> None:
    """Raise MiniVLMError for keys, settings, missing extras, or files of `--ask` and `--image` that can't be used."""
    from models.config import load_config

    config = load_config(args.cfg_path, args.options)
    from app.sampling import check  # takes seconds, which a wrong path need not wait for

    try:
        check(config.sampling)
    except RequestError as error:
        raise ConfigError(f"{args.cfg_path}: sampling: {error}") from error
    if getattr(config, "ocr", False):
        from app.ocr import check_installed

        check_installed()
    if args.ask:
        from app.terminal import read_questions

        for _ in read_questions(args.ask):
            pass
    if args.image:
        from app.images import open_picture

        open_picture(args.image)


def load(args: argparse.Namespace) -> VisionLanguageModel:
    """The model of the command line. Raises MiniVLMError if it can't be loaded."""
    from models.loader import load_model

    return load_model(
        args.cfg_path,
        device=args.device,
        dtype=args.dtype,
        quantization=args.quantization,
        overrides=args.options,
        report=lambda line: print(line, file=sys.stderr),  # stdout is for answers
    )


def run_terminal(model: VisionLanguageModel, args: argparse.Namespace) -> None:
    """Chat in the terminal, or answer a file of questions."""
    from app.terminal import Terminal, answer_file

    if args.ask:
        answer_file(model, args.ask, num_beams=args.num_beams, prompt_lookup=args.prompt_lookup)
    else:
        Terminal(model, image=args.image, num_beams=args.num_beams, prompt_lookup=args.prompt_lookup).run()


def new_scene() -> Image.Image:
    """A fresh picture of the only kind that the bundled models know, for the page's "New scene" button."""
    import numpy as np

    from training.scenes.render import render_image
    from training.scenes.scene import sample_scene

    return render_image(sample_scene(np.random.default_rng(), min_objects=2))
