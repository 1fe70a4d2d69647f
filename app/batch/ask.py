"""`--ask`: a file of questions is answered, several at a time; the records come in the order of the lines.

A record is its line's object with `answer`, `regions` (boxes, in fractions and pixels) and `model`, or with `error`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.batch.progress import ProgressReport
from app.batch.question_file import Line, PreparedLine, prepare, read_lines
from app.batch.results import StandardOutput, kept_results, open_results
from app.chat.encoding import well_formed
from app.chat.picture_files import picture_of, save_picture
from app.chat.regions import entities_of, parse_answer, regions_data
from engine.chat_model import ChatModel
from engine.question_runner import QuestionRunner, TurnsAndSampling
from models.conversation import Answer
from models.errors import MiniVLMError, RequestError


def check_files(questions: Path, output: Path | None) -> None:
    """Raise RequestError for what can be told before a model is loaded: no such file, nothing in it, no place for it.

    A damaged line is none of that: it has its own record.
    """
    if next(read_lines(questions), None) is None:
        raise RequestError(f"{questions} holds no question.")
    if output is not None:
        if output.resolve() == questions.resolve():
            raise RequestError(f"{output} is the file of questions itself; choose another one for the answers.")
        with open_results(output):
            pass


@dataclass(frozen=True)
class AnsweredLine:
    """The number of a line, its record, and what there is to say about the answer."""

    number: int
    result: dict[str, Any]
    notices: tuple[str, ...] = ()

    @property
    def is_error(self) -> bool:
        """Whether the line has an error instead of an answer."""
        return "error" in self.result


def answer_file(chat: ChatModel, questions: Path, *, output: Path | None = None, at_once: int = 1) -> None:
    """Answer every line of a file, as `write_answers` says, with this model."""

    def rest(num_done: int) -> Generator[AnsweredLine]:
        lines = itertools.islice(read_lines(questions), num_done, None)
        return answer_lines(chat, lines, questions, at_once=at_once)

    write_answers(questions, output, chat.info.name, rest)


def write_answers(
    questions: Path, output: Path | None, model: str, rest: Callable[[int], Generator[AnsweredLine]]
) -> None:
    """The record of every line, into `output` or standard output; what `output` holds already is not asked again.

    `rest` answers all lines but the first N, in their order, and is closed at the end. Images are found from the file's
    own folder, and drawn pictures (`--gen`) are saved there. Progress and notices go to stderr. Raises RequestError at
    the end if lines have errors, and at once where results can't be written.
    """
    with nullcontext(StandardOutput()) if output is None else open_results(output) as results:
        kept = [] if output is None else list(_kept(output, questions, model))
        failed = [number for number, is_error in kept if is_error]
        progress = ProgressReport(sum(1 for _ in read_lines(questions)), done=len(kept))
        with closing(progress), closing(rest(len(kept))) as found:
            for one in found:
                results.write(one.result)
                for notice in one.notices:
                    progress.note(f"note: {questions}, line {one.number}: {notice}")
                if one.is_error:
                    failed.append(one.number)
                progress.advance(is_error=one.is_error)
    if failed:
        first = ", ".join(map(str, failed[:8])) + ", …" * (len(failed) > 8)
        raise RequestError(
            f"{questions}: {len(failed)} line{'s have' if len(failed) > 1 else ' has'} no answer but an error "
            f"(line{'s' if len(failed) > 1 else ''} {first}); all others are answered."
        )


def _kept(output: Path, questions: Path, model: str) -> Iterator[tuple[int, bool]]:
    for line, result in kept_results(output, read_lines(questions), model):
        yield line.number, "error" in result


def answer_lines(chat: ChatModel, lines: Iterable[Line], questions: Path, *, at_once: int) -> Generator[AnsweredLine]:
    """These lines of a file, asked `at_once` at a time; their records in their order."""
    prepared: dict[int, PreparedLine] = {}

    def request(line: Line) -> TurnsAndSampling:
        prepared[line.number] = one = prepare(line, questions.parent, chat)
        return [one.question], chat.info.sampling

    with closing(QuestionRunner(chat, request, at_once=at_once).run(lines)) as found:
        for line, answer in found:
            one = prepared.pop(line.number, None)
            try:
                result = _result(line, one, answer, questions)
            except MiniVLMError as error:  # a drawn picture that can't be saved
                result = _result(line, one, error, questions)
            notices = () if "error" in result or isinstance(answer, MiniVLMError) else answer.notices
            yield AnsweredLine(line.number, result, notices)


def _result(line: Line, one: PreparedLine | None, answer: Answer | MiniVLMError, questions: Path) -> dict[str, Any]:
    """The line's record with what came of it. Raises RequestError for a drawn picture that can't be saved."""
    if isinstance(answer, MiniVLMError) or one is None:
        return {**line.asked, "error": str(answer)}
    text = well_formed(answer.text)
    entities = entities_of(parse_answer(text, one.phrase))
    regions = regions_data(entities, size=one.picture.size)["regions"] if one.picture else []
    result = {**line.asked, "answer": text, "regions": regions, "model": one.model}
    if (picture := picture_of(answer)) is not None:
        result["picture"] = save_picture(picture, questions.parent, f"{questions.stem}-line{line.number}").name
    return result
