"""Between the command line and what it starts: checks that need no weights, the model, the terminal, new scenes.

torch, gradio and the model's code are imported where they are needed, so that what can be refused is refused at once.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from app.serving_options import serving_overrides
from models.command_line import CONFIG_DIR
from models.errors import ConfigError, RequestError

BATCH_PREFILL = 512  # tokens of new prompts in a step: nobody watches the answers of a batch come

if TYPE_CHECKING:
    from PIL import Image

    from app.chat.feedback import FeedbackFile
    from app.library.downloads import Downloads
    from app.library.library import ModelLibrary
    from engine.chat_model import ChatModel
    from models.vision_language_model import VisionLanguageModel

BUNDLED = "tiny_"  # what the names of the bundled models' configurations begin with


def check_before_loading(args: argparse.Namespace) -> None:
    """Raise MiniVLMError for keys, settings, missing extras, or files of `--ask` and `--image` that can't be used."""
    for path in args.cfg_paths:
        check_config(path, args.options, download=args.download)
    if args.models_dir is not None and not args.models_dir.is_dir():
        raise ConfigError(f"--models-dir {args.models_dir} is not a folder; give one that holds YAML files.")
    if args.max_loaded is not None and len(args.cfg_paths) > args.max_loaded:
        raise ConfigError(f"--max-loaded {args.max_loaded} is less than the {len(args.cfg_paths)} of --cfg-path.")
    feedback_file(args)
    if args.ask:
        from app.batch.ask import check_files

        check_files(args.ask, args.output)
    if args.image:
        from app.chat.picture_files import read_picture

        read_picture(args.image)


def check_config(path: Path, options: Sequence[str], *, download: bool = False) -> None:
    """Raise MiniVLMError for what can be told of a configuration before its weights are read; first fetch its files."""
    from app.remote.remote_config import remote_config
    from models.config import load_config
    from models.sampling_settings import check

    if remote_config(path, options, url=None, key=None, model=None) is not None:
        return  # a server elsewhere needs no files
    config = load_config(path, options)
    if download:
        from models.fetching.command import download_for

        download_for(path, options, report=lambda line: print(line, file=sys.stderr))
    try:
        check(config.sampling)
    except RequestError as error:
        raise ConfigError(f"{path}: sampling: {error}") from error
    if getattr(config, "ocr", False):
        from app.extras.ocr import check_installed

        check_installed()


def feedback_file(args: argparse.Namespace) -> FeedbackFile | None:
    """Where thumbs are kept, if they are. Raises ConfigError if that can't be written."""
    from app.chat.feedback import FeedbackFile

    return None if args.feedback is None else FeedbackFile(args.feedback)


def downloads(args: argparse.Namespace, library: ModelLibrary) -> Downloads | None:
    """What fetches for the page what its models lack, if it may."""
    from app.library.downloads import Downloads

    return Downloads(library) if args.allow_download else None


def make_library(args: argparse.Namespace) -> ModelLibrary:
    """What the page offers, with the models of `--cfg-path` loaded. Raises MiniVLMError if one can't be.

    Others are offered where that was asked for, or with a bundled model, which is there to try the program with.
    """
    from app.library.engine_loader import EngineLoader, LoadingOptions
    from app.library.library import ModelLibrary
    from app.library.offers import configs_in, find_offers

    is_bundled = args.cfg_path.absolute().parent == CONFIG_DIR and args.cfg_path.name.startswith(BUNDLED)
    paths = list(args.cfg_paths)
    if args.models_dir is not None:
        paths += configs_in(args.models_dir)
    if is_bundled or len(paths) > 1 or args.max_loaded is not None or args.allow_download:
        paths += configs_in(CONFIG_DIR)
    options = LoadingOptions(
        device=args.device,
        dtype=args.dtype,
        quantization=args.quantization,
        overrides=serving_overrides(args),
        copies_weights=args.copy_weights,
    )
    offers = find_offers(paths, overrides=args.options, overridden=args.cfg_paths)
    loader = EngineLoader(options, report=lambda line: print(line, file=sys.stderr))
    library = ModelLibrary(offers, loader, max_loaded=args.max_loaded)
    try:
        for offer in offers[: len({path.resolve() for path in args.cfg_paths})]:
            library.load(offer.id)
    except BaseException:
        library.close()
        raise
    return library


def load(args: argparse.Namespace) -> VisionLanguageModel:
    """The model of the command line. Raises MiniVLMError if it can't be loaded."""
    from models.loader import load_model

    model = load_model(
        args.cfg_path,
        device=args.device,
        dtype=args.dtype,
        quantization=args.quantization,
        overrides=args.options,
        report=lambda line: print(line, file=sys.stderr),  # stdout is for answers
    )
    if args.copy_weights:
        from models.files.mapped import copy_weights

        copy_weights(model)
    return model


def run_without_page(args: argparse.Namespace) -> None:
    """Chat in the terminal, or answer a file of questions; Ctrl+C is an exception in both."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if args.ask:
        from app.batch.ask import answer_file

        with answering(args, busy_prefill_tokens=BATCH_PREFILL) as (chat, at_once):
            return answer_file(chat, args.ask, output=args.output, at_once=at_once)
    from app.terminal.chat import Terminal
    from app.terminal.commands import Completer
    from app.terminal.line_editor import line_editor
    from app.terminal.model_slot import ModelSlot

    models = ModelSlot(partial(_terminal_model, args), args.cfg_path)
    with models, line_editor(Completer(lambda: models.chat.info.tasks, models.names)) as read:
        Terminal(models, image=args.image, read=read).run()


@contextmanager
def _terminal_model(args: argparse.Namespace, config: Path) -> Iterator[ChatModel]:
    """A configuration's model. `--options` and what else overrides keys is for the configuration it was given with."""
    own = args.options if config.resolve() == args.cfg_path.resolve() else []
    with answering(argparse.Namespace(**vars(args) | {"cfg_path": config, "options": own})) as (chat, _):
        yield chat


@contextmanager
def answering(args: argparse.Namespace, *, busy_prefill_tokens: int | None = None) -> Iterator[tuple[ChatModel, int]]:
    """The loaded model behind the engine, or behind `generate` where the engine lacks what is asked for.

    The number is how many questions it answers at once. Raises MiniVLMError.
    """
    from app.extras.extended_model import with_extras

    if args.num_beams > 1 or args.prompt_lookup:
        from engine.generating_model import GeneratingModel

        generating = GeneratingModel(load(args), num_beams=args.num_beams, prompt_lookup=args.prompt_lookup)
        yield with_extras(generating), 1
        return
    from engine.chat_engine import ChatEngine

    with ChatEngine(load(args), busy_prefill_tokens=busy_prefill_tokens) as engine:
        yield with_extras(engine), engine.max_concurrent


def new_scene() -> Image.Image:
    """A fresh picture of the only kind that the bundled models know, for the page's "New scene" button."""
    from training.scenes import draw_scene

    return draw_scene()
