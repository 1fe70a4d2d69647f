"""A model that answers from a script: it drives the whole app without weights and without torch."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace

from engine.chat_model import ChatModel, GeneratorStream, Stream
from models.conversation import Answer, Sampling, Turn
from models.model_info import ModelInfo
from models.routing_trace import LayerRouting, PatchGrid, RoutingTrace
from models.tasks import Task

TASKS = (
    Task(label="Chat", prompt="", hint="Type whatever you want to know about the image."),
    Task(label="Caption", identifier="[caption]", prompt="[caption] Briefly describe this image.", hint="A caption."),
    Task(label="Question", identifier="[vqa]", prompt="[vqa] ", hint="Type a question to get a short answer."),
    Task(
        label="Grounding",
        identifier="[grounding]",
        prompt="[grounding] describe this image in detail",
        hint="A description in which every phrase comes with its box.",
        gives_boxes=True,
    ),
    Task(
        label="Refer",
        identifier="[refer]",
        prompt="[refer] ",
        hint="Type a phrase for an object.",
        gives_boxes=True,
        phrasings=("{}", "where is {} ?"),
    ),
    Task(
        label="Detection",
        identifier="[detection]",
        prompt="[detection] ",
        hint="Type a kind of object to see every place where it occurs.",
        gives_boxes=True,
    ),
    Task(
        label="Identify",
        identifier="[identify]",
        prompt="[identify] what is this ",
        hint="Draw a box on the image, then send.",
        takes_box=True,
    ),
)

INFO = ModelInfo(
    name="Scripted model",
    family="minigpt_v2",
    tasks=TASKS,
    sampling=Sampling(temperature=0.6, max_new_tokens=200),
    description="Answers from a script, for tests.",
    is_toy=True,
)

# Text, four patches, text; layer 0 sends patches to experts 0, 1, 1, 3 and text to 2.
TRACE = RoutingTrace(
    layers=(
        LayerRouting(0, 4, first=(2, 0, 1, 1, 3, 2), second=(0, 1, 2, 3, 0, 1)),
        LayerRouting(2, 4, first=(0, 0, 0, 0, 0, 3), second=(1, 1, 1, 1, 1, 1)),
    ),
    images=(None, 0, 0, 0, 0, None),
    grid=PatchGrid(side=2, first=0, fit="pad"),
)

Reply = str | Exception | Callable[[Sequence[Turn]], str]


@dataclass
class ScriptedModel(ChatModel):
    """Answers with `script` in order, then with `default`; a reply may be an error to raise or a function of the turns.

    `delay` is the pause in seconds before each piece. `gate`, if set, must be released for every piece: a test then
    decides how far an answer gets. `seen` holds the turns of every request, `open_streams` how many are not closed.
    `trace` is what `routing` gives or raises, `traced` what it was asked about.
    """

    script: list[Reply] = field(default_factory=list)
    default: Reply = "A red circle and a blue square."
    info: ModelInfo = INFO
    delay: float = 0.0
    gate: threading.Semaphore | None = None
    seen: list[tuple[Turn, ...]] = field(default_factory=list)
    samplings: list[Sampling] = field(default_factory=list)
    open_streams: int = 0
    closed_early: int = 0
    trace: RoutingTrace | Exception | None = None
    traced: list[tuple[Sequence[Turn], str]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def stream(self, turns: Sequence[Turn], sampling: Sampling) -> Stream:
        with self._lock:
            reply = self.script.pop(0) if self.script else self.default
            self.seen.append(tuple(turns))
            self.samplings.append(sampling)
        return GeneratorStream(self._pieces(reply, tuple(turns)))

    def neutralise(self, text: str) -> str:
        return re.sub(r"</?s>|<unk>|</?Img>|<ImageHere>", lambda match: match[0][0] + " " + match[0][1:], text)

    def routing(self, turns: Sequence[Turn], answer: str, sampling: Sampling) -> RoutingTrace:
        self.traced.append((turns, answer))
        if isinstance(self.trace, Exception):
            raise self.trace
        return self.trace or super().routing(turns, answer, sampling)

    def last_question(self) -> str:
        """The text of the newest question that was asked."""
        return self.seen[-1][-1].text

    def open_gate(self) -> None:
        """Let everything through."""
        if self.gate is not None:
            self.gate.release(100_000)

    def _pieces(self, reply: Reply, turns: tuple[Turn, ...]) -> Generator[Answer]:
        is_complete = False
        with self._lock:
            self.open_streams += 1
        try:
            self._pause()
            if isinstance(reply, Exception):
                raise reply
            text = reply(turns) if callable(reply) else reply
            answer = Answer(text="", num_prompt_tokens=sum(len(turn.text) for turn in turns))
            for end in [match.end() for match in re.finditer(r"\S+\s*", text)]:
                answer = replace(answer, text=text[:end].rstrip(), num_new_tokens=answer.num_new_tokens + 1)
                yield answer
                self._pause()
            is_complete = True
            yield replace(answer, text=text.strip(), finish_reason="stop", seconds=0.5)
        finally:
            with self._lock:
                self.open_streams -= 1
                self.closed_early += not is_complete

    def _pause(self) -> None:
        if self.gate is not None:
            self.gate.acquire()
        time.sleep(self.delay)
