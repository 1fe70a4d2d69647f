"""What the gallery is taken of: pages over a model that says the same whenever it is asked the same."""

from __future__ import annotations

import random
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from app.chat.feedback import FeedbackFile
from app.library.library import ModelLibrary
from app.page.components import build_demo
from engine.chat_model import GeneratorStream, Stream
from models.conversation import Answer, Sampling, Turn
from models.errors import NotEnoughMemory
from models.routing_trace import LayerRouting, PatchGrid, RoutingTrace
from tests.app.helpers import scene
from tests.app.library.fake_loader import FakeLoader, offer
from tests.app.page.browser.proxy import Proxy
from tests.fakes import INFO, Reply, ScriptedModel
from tests.waiting import free_port

BOXES = (
    "<p>a pink circle</p> {<3><40><19><57>}, <p>a cyan square</p> {<6><67><22><83>}, <p>a cyan digit 7</p> "
    "{<27><5><44><29>}, <p>a striped green star</p> {<39><48><62><71>}, <p>an orange word pen</p> {<45><84><74><97>}, "
    "<p>a cyan star</p> {<47><20><62><35>}, <p>a dotted cyan ring</p> {<60><27><92><58>} and <p>a red moon</p> "
    "{<63><4><76><19>} on a striped white background"
)
AGAIN = (
    "<p>a pink circle</p> {<4><41><19><57>}, <p>a cyan square</p> {<6><67><22><83>} and "
    "<p>a large ring</p> {<61><27><92><57>} on a striped white background"
)
MARKDOWN = """## What can be seen

Eight things on a *striped* background; **five of them** are <p>cyan</p> {<47><20><62><35>}.

| Thing | Colour | Pattern | Where it is in the picture | How sure | What is next to it on the left | Remarks |
|---|---|---|---|--:|---|---|
| ring | cyan | dotted | right of the middle, above a word | 0.97 | a star with five points | the largest of all |
| star | green | striped | middle | 0.92 | a circle | |
| word | orange | plain | bottom | 0.88 | nothing | it reads "pen" |

1. The ring covers $\\frac{1}{8}$ of the picture.
2. Nothing else overlaps.

```python
areas = {name: (x1 - x0) * (y1 - y0) for name, (x0, y0, x1, y1) in boxes.items() if name.startswith("a cyan ")}
```
"""
ARABIC = (
    "Here is the answer:\n\nفي الصورة دائرة حمراء ومربع أزرق.\n\n- نجمة خضراء\n- حلقة زرقاء كبيرة في الوسط\n\n12 شكلا"
)
WORDS = "The picture shows a pink circle beside a striped green star. " * 12


def _many() -> str:
    place = random.Random(3)
    corners = [(place.randrange(90), place.randrange(90)) for _ in range(120)]
    return " ".join(f"<p>thing {i}</p> {{<{x}><{y}><{x + 7}><{y + 8}>}}" for i, (x, y) in enumerate(corners))


REPLIES: dict[str, Reply] = {
    "[grounding] describe this image in detail": BOXES,
    "[detection] everything": _many(),
    "describe it": "A pink circle, a cyan square and a striped green star on a striped background.",
    "make a table": MARKDOWN,
    "ماذا ترى في الصورة؟": ARABIC,
    "too much": NotEnoughMemory("No memory for this question. Ask a shorter one, or start a new chat."),
}
SLOWLY, WAITING = "describe it slowly", "who waits?"


class StagedModel(ScriptedModel):
    """Answers what it is asked as REPLIES say; one question slowly, and one never, because others come first."""

    def stream(self, turns: Sequence[Turn], sampling: Sampling) -> Stream:
        text = turns[-1].text
        if text in (SLOWLY, WAITING):
            return GeneratorStream(self._slowly(text))
        self.script = [BOXES if text.startswith("[grounding]") and sampling.temperature > 0 else AGAIN]
        if text in REPLIES:
            self.script = [AGAIN if text.startswith("[grounding]") and not sampling.temperature else REPLIES[text]]
        elif not text.startswith("["):
            self.script = ["A red circle and a blue square."]
        return super().stream(turns, sampling)

    def _slowly(self, text: str) -> Generator[Answer]:
        if text == WAITING:
            yield Answer(text="", queue_number=3)
        else:
            yield Answer(text=WORDS[:400], num_prompt_tokens=90, num_new_tokens=80)
        while True:  # until it is stopped
            time.sleep(0.1)
            yield Answer(text="", queue_number=3) if text == WAITING else Answer(text=WORDS[:400], num_new_tokens=80)


def staged(name: str, *, has_experts: bool = False) -> StagedModel:
    """A model of this name; its experts look at 12 x 12 patches."""
    place = random.Random(1)
    choices = [
        tuple((row // 4 + column // 5 + layer) % 4 for row in range(12) for column in range(12)) for layer in (0, 2, 4)
    ]
    layers = tuple(
        LayerRouting(2 * index, 4, first=first, second=tuple(place.randrange(4) for _ in first))
        for index, first in enumerate(choices)
    )
    trace = RoutingTrace(layers=layers, images=(0,) * 144, grid=PatchGrid(side=12, first=0, fit="pad"))
    info = replace(INFO, name=name, has_experts=has_experts, context_tokens=1200)
    return StagedModel(info=info, trace=trace)


@dataclass(frozen=True)
class Site:
    """A page, and a connection to it that can be cut."""

    url: str
    proxy: Proxy


@contextmanager
def sites() -> Iterator[dict[str, Site]]:
    """The page of one model, and the page with a choice of them."""
    with TemporaryDirectory() as folder:
        model, second = staged("Tiny MiniGPT-v2"), staged("Tiny MoE-LLaVA", has_experts=True)
        loader = FakeLoader(infos={"one": model.info, "two": second.info})
        names = {"one": model.info.name, "two": second.info.name}
        offers = [replace(offer(name, 6), name=names[name]) for name in names]
        offers += [offer("huge", 900), offer("away", problem="Not here: away.pth.")]
        with ModelLibrary(offers, loader) as library:
            for name, staged_one in (("one", model), ("two", second)):
                library.load(name)
                loader.made[name].model = staged_one
            single = build_demo(model, new_scene=scene)
            several = build_demo(library.model("one"), library=library, feedback=FeedbackFile(Path(folder) / "votes"))
            pages = {"single": single, "several": several}
            urls = {
                name: demo.launch(prevent_thread_lock=True, quiet=True, server_port=free_port())[1]
                for name, demo in pages.items()
            }
            with Proxy(urls["single"]) as proxy:
                yield {name: Site(url, proxy) for name, url in urls.items()}
            for demo in pages.values():
                demo.close(verbose=False)
