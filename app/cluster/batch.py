"""`python -m app.cluster.batch questions.jsonl answers.jsonl`: a file of questions, answered by a running cluster.

Lines and records are those of `demo.py --ask`, in the same order, and a run that was stopped or killed goes on where
it was. Ray Data spreads the reading of pictures and the asking; the file is written here alone, so that each line has
one record.
"""

from __future__ import annotations

import itertools
import os
import pickle
import sys
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import ray
from ray import serve

from app.arguments import positive
from app.batch.ask import AnsweredLine, answer_lines, check_files, write_answers
from app.batch.question_file import Line, read_lines
from app.cluster.application import DOOR, NAME
from app.cluster.elsewhere import ReplicatedModel, explained
from app.cluster.running import OURS
from engine.chat_model import ChatModel, GeneratorStream, Stream
from models.command_line import OneLineParser, place
from models.conversation import Answer, Sampling, Turn
from models.errors import Busy, ConfigError, MiniVLMError, ServerFailed
from models.model_info import ModelInfo
from models.routing_trace import RoutingTrace

PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)  # seconds before a question is asked again: a new replica needs about 20


class ClusterGone(Exception):
    """No replica answers any more. It ends the run, and is no MiniVLMError, which would be the error of a line."""


class Persistent(ChatModel):
    """Whole answers of a model whose replicas come and go: who dies or is full is asked again, `pauses` later."""

    def __init__(self, model: ChatModel, *, pauses: Sequence[float] = PAUSES) -> None:
        self._model = model
        self._pauses = pauses

    @property
    def info(self) -> ModelInfo:
        """Facts about the model."""
        return self._model.info

    def neutralise(self, text: str) -> str:
        """User text with every control token of the model broken."""
        return self._model.neutralise(text)

    def routing(self, turns: Sequence[Turn], answer: str, sampling: Sampling) -> RoutingTrace:
        """See ChatModel."""
        return self._model.routing(turns, answer, sampling)

    def stream(self, turns: Sequence[Turn], sampling: Sampling) -> Stream:
        """The final answer alone. Raises ClusterGone when there was none after all pauses."""
        return GeneratorStream(self._final(turns, sampling))

    def _final(self, turns: Sequence[Turn], sampling: Sampling) -> Generator[Answer]:
        for pause in (*self._pauses, None):
            last = None
            try:
                with closing(self._model.stream(turns, sampling)) as answers:
                    for answer in answers:
                        last = answer
                if last is not None:
                    yield last
                return
            except (Busy, ServerFailed) as error:
                if pause is None:
                    raise ClusterGone(str(error)) from error
                time.sleep(pause)


class Asking:
    """What runs in each of Ray Data's workers: some lines of the file go in, their records come out."""

    def __init__(self, model: ReplicatedModel, questions: Path, at_once: int) -> None:
        self._model = Persistent(model)
        self._questions = questions
        self._at_once = at_once

    def __call__(self, row: dict[str, bytes]) -> dict[str, bytes]:
        """A row is some lines, pickled, as Ray Data's tables have columns of plain values."""
        lines = pickle.loads(row["lines"])
        answered = list(answer_lines(self._model, lines, self._questions, at_once=self._at_once))
        return {"answered": pickle.dumps(answered)}


def answer_on_cluster(
    model: ReplicatedModel, questions: Path, output: Path, *, workers: int = 2, at_once: int = 32
) -> None:
    """As `answer_file`, by the deployment of `model`, with `at_once` questions of each worker under way.

    The nodes of the cluster must have the file's folder at the same place, for its pictures. Raises RequestError as
    `answer_file` does, and ServerFailed when no replica answers any more.
    """

    def rest(num_done: int) -> Generator[AnsweredLine]:
        # Several times as many lines as are under way: at the end of a row places wait for its longest answer.
        rows = [{"lines": pickle.dumps(lines)} for lines in _grouped(read_lines(questions), num_done, 4 * at_once)]
        if rows:
            yield from _asked(model, questions.resolve(), rows, workers=workers, at_once=at_once)

    write_answers(questions, output, model.info.name, rest)


def _grouped(lines: Iterator[Line], num_done: int, size: int) -> Iterator[list[Line]]:
    left = itertools.islice(lines, num_done, None)
    while group := list(itertools.islice(left, size)):
        yield group


def _asked(
    model: ReplicatedModel, questions: Path, rows: list[dict[str, bytes]], *, workers: int, at_once: int
) -> Generator[AnsweredLine]:
    import ray.data

    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True  # the order of the file is what a second run goes on by
    context.enable_progress_bars = False
    answered = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        Asking,
        fn_constructor_args=(model, questions, at_once),
        compute=ray.data.ActorPoolStrategy(size=min(workers, len(rows))),
        num_cpus=0,  # they wait for answers; the processors are the replicas'
    )
    try:
        for row in answered.iter_rows():
            yield from pickle.loads(row["answered"])
    except ray.exceptions.RayError as error:
        reason = next((one for one in _causes(error) if isinstance(one, ClusterGone)), None)
        if reason is None:
            raise explained(error) from error
        raise ServerFailed(f"{reason} What is answered is kept; the same command goes on.") from error


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = getattr(error, "cause", None) or error.__cause__


@contextmanager
def running_model(name: str | None) -> Iterator[ReplicatedModel]:
    """A model of the cluster that runs on this machine, or that RAY_ADDRESS names. Raises ConfigError, ServerFailed."""
    try:
        ray.init(address=os.environ.get("RAY_ADDRESS", "auto"), **OURS)
    except ConnectionError as error:
        raise ServerFailed(
            "No cluster is running here; start one with python -m app.cluster, or set RAY_ADDRESS."
        ) from error
    try:
        application = serve.status().applications.get(NAME)
        names = sorted(set(application.deployments) - {DOOR}) if application is not None else []
        if name is None and len(names) == 1:
            (name,) = names
        if name not in names:
            raise ConfigError(f"--model {name or ''}: choose one of {', '.join(names) or 'none, as none is served'}.")
        handle = serve.get_deployment_handle(name, NAME)
        yield ReplicatedModel(handle, handle.facts.remote().result())
    finally:
        ray.shutdown()


def main(argv: Sequence[str] | None = None) -> int:
    """Answer a file. What the user can mend is one line on stderr and exit status 2, as for demo.py."""
    parser = OneLineParser(prog="python -m app.cluster.batch", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("questions", type=place, metavar="JSONL", help="one JSON object a line, as for --ask")
    parser.add_argument("output", type=place, metavar="JSONL", help="their answers; goes on where it was stopped")
    parser.add_argument("--model", metavar="NAME", help="which of the cluster's (default: the only one)")
    parser.add_argument("--workers", type=positive, default=2, metavar="N", help="processes that ask (%(default)s)")
    parser.add_argument("--at-once", type=positive, default=32, metavar="N", help="questions of each (%(default)s)")
    args = parser.parse_args(argv)
    try:
        check_files(args.questions, args.output)
        with running_model(args.model) as model:
            answer_on_cluster(model, args.questions, args.output, workers=args.workers, at_once=args.at_once)
    except MiniVLMError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
