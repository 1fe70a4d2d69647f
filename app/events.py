"""What happens when something is pressed: values in, values out. Which component a value belongs to, ui.py knows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from html import escape
from typing import Any, NamedTuple, cast

import gradio as gr
from PIL import Image

from app.aids import Wishes
from app.box_tool import box_of, tool_value
from app.chat_model import ChatModel
from app.examples import Example
from app.images import Picture
from app.messages import messages_of
from app.questions import check_number_of_images, with_task
from app.routing_view import TracesRouting
from app.scratch import ScratchFolder
from app.session import ChatSession, Exchange, StillAnswering
from models.conversation import Sampling
from models.errors import ImageError, MiniVLMError, RequestError

MAX_SEED = 2**63 - 1
LOST = (
    "The server has forgotten this conversation: it was restarted, or the page was away for long. "
    "Press New chat, and attach the image again."
)


class View(NamedTuple):
    """New values of the parts of the page; what stays as it is, is skipped."""

    chat: Any = gr.skip()
    question: Any = gr.skip()
    notice: Any = gr.skip()
    tool: Any = gr.skip()
    session: Any = gr.skip()  # given back once per question: that starts its time to live
    key: Any = gr.skip()  # of the session that the page shows


class Handlers:
    """The listeners of one page. Each visitor's conversation comes in as `session` and is changed in place."""

    def __init__(
        self,
        model: ChatModel,
        *,
        examples: Sequence[Example] = (),
        new_scene: Callable[[], Image.Image] | None = None,
    ) -> None:
        self._model = model
        self._examples = examples
        self._new_scene = new_scene
        self._scratch = ScratchFolder()

    def ask(
        self, session: ChatSession, shown_key: str, value: dict[str, Any], tool: Any, *settings: Any
    ) -> Iterator[View]:
        """Send the text box. It is emptied only once the question has been accepted."""
        draft = session.draft
        try:
            if shown_key and shown_key != session.key:
                raise RequestError(LOST)
            pictures = session.attach(value["files"])
            sampling = sampling_of(*settings)
            wishes = wishes_of(*settings)
            updates = session.ask(self._model, value["text"], pictures, sampling, box=box_of(tool), wishes=wishes)
        except MiniVLMError as error:
            yield View(notice=notice_of(session, error))
            return
        question = answering(value=draft or {"text": "", "files": []})
        session.draft = None
        yield View(messages_of(session), question, "", tool_value(session.picture, clear=True), session, session.key)
        yield from self._follow(session, updates)

    def retry(self, session: ChatSession, *settings: Any) -> Iterator[View]:
        """Answer the last question again, with the settings of now. An edit that has begun is given up."""
        try:
            updates = session.retry(self._model, sampling_of(*settings), wishes=wishes_of(*settings))
        except MiniVLMError as error:
            yield View(notice=notice_of(session, error))
            return
        draft = session.cancel_edit()
        yield View(messages_of(session), answering(value=draft) if draft else answering(), "")
        yield from self._follow(session, updates)

    def _follow(self, session: ChatSession, updates: Iterator[Exchange]) -> Iterator[View]:
        shown: Any = None
        for exchange in updates:
            state = (exchange.answer, exchange.error)
            # Nothing new is sent all the same: gradio notices only then that the tab was closed.
            yield View(messages_of(session) if state != shown else gr.skip())
            shown = state
        refused, session.refused_meanwhile = session.refused_meanwhile, False
        yield View(messages_of(session), idle(), notice_of(session) if refused else gr.skip())

    def stop(self, session: ChatSession) -> None:
        """End the running answer; its own listener then draws the rest."""
        session.stop()

    def reset(self, session: ChatSession) -> View:
        """New chat; what is in the text box stays, or comes back to it after an edit."""
        session.reset()
        draft = session.cancel_edit()
        question = idle(value=draft) if draft else idle()
        return View([], question, "", tool_value(session.picture, clear=True), key=session.key)

    def undo(self, session: ChatSession, value: dict[str, Any]) -> View:
        """Take the last question back into the text box, unless something else has been typed there."""
        was_editing = session.editing is not None
        exchange = session.undo()
        if exchange is None:
            return View()
        draft = session.cancel_edit()
        if draft:
            question = idle(value=draft)
        else:
            question = idle() if is_filled(value) and not was_editing else idle(value=self._question_value(exchange))
        return View(messages_of(session), question, "", tool_value(session.picture, clear=True))

    def edit(self, session: ChatSession, value: dict[str, Any], event: gr.EventData) -> View:
        """Put an earlier question into the text box; sending it replaces that question and all after it."""
        try:
            exchange = session.edit(int(event.index))
        except RequestError as error:
            return View(notice=notice_of(session, error))
        session.draft = session.draft or (value if is_filled(value) else None)
        return View(messages_of(session), gr.update(value=self._question_value(exchange)), notice_of(session))

    def cancel_edit(self, session: ChatSession) -> View:
        """Leave the conversation as it is and give the text box its former content."""
        draft = session.cancel_edit()
        return View(messages_of(session), gr.update(value=draft or {"text": "", "files": []}), "")

    def routing(self, session: ChatSession, event: gr.EventData) -> View:
        """Show which experts the tokens of an answer went to, or close that view again."""
        index = int(event.index)
        if not 0 <= index < len(session.exchanges) or not session.has_experts:
            return View()
        exchange = session.exchanges[index]
        shown, exchange.routing = exchange.routing, None
        if shown is None:
            tracer = cast(TracesRouting, self._model)
            try:
                exchange.routing = tracer.routing(session.turns(index), exchange.text, exchange.sampling)
            except MiniVLMError as error:
                return View(notice=notice_of(session, error))
        return View(messages_of(session))

    def attach(self, session: ChatSession, value: dict[str, Any]) -> View:
        """Files were added or removed: refuse bad ones now, and show the box tool the image of the next question.

        What the page had to say before is outdated then. Nothing has changed when the page tells of the files that are
        left after a bad one was refused: that must not take the reason away.
        """
        before = set(session.attached)
        good: list[str] = []
        problem: MiniVLMError | None = None
        for path in value["files"]:
            try:
                session.attach([*good, path])
                good.append(path)
            except ImageError as error:
                problem = error
        pictures = session.attach(good)
        try:
            check_number_of_images(len(good), self._model.info)
        except RequestError as error:
            problem = problem or error
        notice = notice_of(session, problem) if problem or set(good) != before else gr.skip()
        files = [self._file_of(picture) for picture in pictures]
        question = gr.skip() if files == value["files"] else gr.update(value={**value, "files": files})
        return View(gr.skip(), question, notice, tool_value(pictures[-1] if pictures else session.picture))

    def choose_task(self, index: int, session: ChatSession, value: dict[str, Any]) -> View:
        """A task button: its prompt goes around what was typed, and what was wrong with another task is outdated."""
        tasks = self._model.info.tasks
        value = {**value, "text": with_task(value["text"], tasks[index], tasks)}
        return View(question=gr.update(value=value), notice=notice_of(session))

    def example(self, event: gr.EventData) -> View:
        """An example card: its picture and question go into the text box."""
        example = self._examples[int(event.index)]
        return View(question=gr.update(value={"text": example.question, "files": [str(example.path)]}), notice="")

    def new_scene(self, value: dict[str, Any]) -> View:
        """Draw a fresh scene and attach it in place of what is attached."""
        if self._new_scene is None:
            return View()
        path = self._scratch.save(self._new_scene(), name="scene")
        return View(question=gr.update(value={"text": value["text"], "files": [str(path)]}), notice="")

    def _question_value(self, exchange: Exchange) -> dict[str, Any]:
        """A question as the text box's content."""
        return {"text": exchange.question, "files": [self._file_of(picture) for picture in exchange.pictures]}

    def _file_of(self, picture: Picture) -> str:
        """A file with the picture for the text box: the one it came from, or a new one if browsers can't show that."""
        if picture.path is not None and picture.is_web_file and picture.path.is_file():
            return str(picture.path)
        return str(self._scratch.save(picture.image))


def sampling_of(
    temperature: float, top_p: float, max_new_tokens: float, penalty: float, seed: str, *_: Any
) -> Sampling:
    """The settings of the page; an empty seed is a new one for every answer. What follows them is `wishes_of`'s."""
    seed = seed.strip()
    if seed and not (seed.isdecimal() and len(seed) <= len(str(MAX_SEED)) and int(seed) <= MAX_SEED):
        raise RequestError(f"The seed must be a whole number from 0 to {MAX_SEED}, or empty for a new one.")
    return Sampling(
        temperature=float(temperature),
        top_p=float(top_p),
        max_new_tokens=int(max_new_tokens),
        repetition_penalty=float(penalty),
        seed=int(seed) if seed else None,
    )


def wishes_of(*settings: Any) -> Wishes:
    """The two switches after the five settings, which only models with aids have."""
    reads_text, wants_picture = settings[5:7] if len(settings) > 5 else (False, False)
    return Wishes(reads_text=bool(reads_text), wants_picture=bool(wants_picture))


def answering(**changes: Any) -> Any:
    """The text box while an answer is written: Stop instead of Send. It stays open for the next question."""
    return gr.update(submit_btn=False, stop_btn=True, **changes)


def idle(**changes: Any) -> Any:
    """The text box when nothing is running."""
    return gr.update(submit_btn=True, stop_btn=False, **changes)


def is_filled(value: dict[str, Any]) -> bool:
    return bool(value["text"].strip() or value["files"])


def notice_of(session: ChatSession, error: MiniVLMError | None = None) -> str:
    """The lines above the text box: what could not be done, and the edit that has begun."""
    lines = ""
    if error is not None:
        session.refused_meanwhile = isinstance(error, StillAnswering)
        lines += f'<p class="mv-error" role="alert">{escape(str(error))}</p>'
    if session.editing is not None:
        lines += (
            f'<p class="mv-info" role="status">Editing question {session.editing + 1}. '
            '<button type="button" class="mv-action" data-action="cancel_edit">Cancel</button></p>'
        )
    return lines
