"""`python -m tests.app.page.speed`: what an update of the page costs, in a chat of 50 turns and 20 pictures.

The server's part is measured by itself, in process time: from a new token to what is handed to gradio. The way from a
token to the screen is measured with a scripted model in a process of its own, which notes when it made each token, and
a browser, which notes after each frame what the newest token is that can be read there.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import accumulate

import psutil
from PIL import Image, ImageDraw
from playwright.sync_api import Browser, sync_playwright

from app.chat.exchange import Exchange
from app.chat.pictures import Picture
from app.page.conversation_component import conversation_value
from app.page.messages import messages_of
from app.page.page_state import PageState
from engine.chat_model import GeneratorStream, Stream
from models.conversation import Answer, Sampling, Turn
from models.model_info import ModelInfo
from tests.fakes import INFO, ScriptedModel
from tests.paths import ROOT
from tests.waiting import eventually, free_port

KEY = "a-key-that-only-this-measurement-has"
TURNS, PICTURES = 50, 20
RATES = (30, 100)  # tokens per second


def box(index: int) -> str:
    left, top = index * 7 % 90, index * 11 % 90
    return f"{{<{left}><{top}><{left + 9}><{top + 9}>}}"


# Every token has its number in a word that stays readable, whatever the page makes of the text around it.
SHAPES: dict[str, tuple[int, Callable[[int], str]]] = {  # how many tokens, and each of them
    "prose": (600, lambda index: f"word{index}" + (".\n\n" if index % 40 == 39 else " ")),
    "description with 20 boxes": (160, lambda index: boxed(index) if index % 8 == 4 else f"word{index} "),
    "mixed Markdown": (150, lambda index: f"**bold** `code` *it* word{index}" + ("\n\n- item " * (index % 12 == 11))),
    "300 phrases in one paragraph": (300, lambda index: f"a {boxed(index)}and "),
    "list of 160 boxes": (160, lambda index: f"- {boxed(index)}\n"),
    "table of 170 boxes": (170, lambda index: "| what |\n|---|\n" * (index == 0) + f"| {boxed(index)} |\n"),
}


def boxed(index: int) -> str:
    return f"<p>thing{index}</p> {box(index)} "


def growing(shape: str) -> list[str]:
    """The answer of a shape after each of its tokens."""
    count, token = SHAPES[shape]
    return list(accumulate(token(index) for index in range(count)))


def picture(index: int) -> Picture:
    image = Image.new("RGB", (640, 480), (225 - index * 5, 222, 214))
    draw = ImageDraw.Draw(image)
    draw.ellipse((40 + index, 60, 290, 310), fill=(200, 40, 40))
    draw.rectangle((380, 140 + index, 590, 430), fill=(40, 60, 200))
    return Picture(image, f"{index}.png")


def long_chat() -> PageState:
    """A page with 50 turns, 20 of them with a picture of their own, and boxes in every other answer."""
    page = PageState()
    for index in range(TURNS):
        pictures = (picture(index),) if index < PICTURES else ()
        text = (
            f"Here is <p>a red circle</p> {box(index)} and <p>squares</p> {box(index + 3)}."
            if index % 2
            else "Yes.\n" * 4
        )
        answer = Answer(text=text, finish_reason="stop", num_prompt_tokens=100, num_new_tokens=30)
        page.session.exchanges.append(
            Exchange(f"question {index}", pictures, Sampling(), answer=answer, model=INFO.name)
        )
    return page


@dataclass
class Stamping(ScriptedModel):
    """Answers with the shape that the question names, at the rate that it names, and prints when it made each token."""

    info: ModelInfo = field(default_factory=lambda: replace(INFO, context_tokens=100_000))

    def stream(self, turns: Sequence[Turn], sampling: Sampling) -> Stream:
        shape, _, rate = turns[-1].text.rpartition(" at ")
        return GeneratorStream(self._stamped(growing(shape), 1 / float(rate)))

    def _stamped(self, texts: Sequence[str], pause: float) -> Generator[Answer]:
        stamps: list[float] = []
        begin = time.monotonic()
        for index, text in enumerate(texts):
            time.sleep(max(0.0, begin + index * pause - time.monotonic()))
            stamps.append(time.time())
            yield Answer(text=text, num_new_tokens=index + 1)
        yield Answer(text=texts[-1], num_new_tokens=len(texts), finish_reason="stop")
        print(json.dumps(stamps), flush=True)


def percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def server_costs(shape: str) -> list[float]:
    """Milliseconds of process time for each token of an answer."""
    page = long_chat()
    exchange = Exchange("what is it?", (), Sampling(), model=INFO.name)
    page.session.exchanges.append(exchange)
    conversation_value(page, messages_of(page, context_tokens=100_000))
    costs = []
    for index, text in enumerate(growing(shape)):
        exchange.answer = Answer(text=text, num_new_tokens=index + 1)
        begin = time.process_time()
        conversation_value(page, messages_of(page, context_tokens=100_000))
        costs.append(1000 * (time.process_time() - begin))
    return costs


def serve(port: int) -> None:
    """The page over a `Stamping` model, with a long chat under KEY."""
    from app.chat.conversation_store import ConversationStore
    from app.page.components import build_demo

    store = ConversationStore[PageState]()
    page = long_chat()
    page.session.key = KEY
    store.keep(KEY, page)
    build_demo(Stamping(), store=store).launch(quiet=True, server_port=port)


# After each frame that shows something new: when it was painted, and the number of the newest token in it.
WATCH = """() => {
    const answers = () => document.querySelectorAll(".mv-answer");
    const before = answers().length;
    Object.assign(window, { frames_: [], updates_: 0 });
    let isWaiting = false;
    const look = () => {
        isWaiting = false;
        if (answers().length === before) return;
        const end = answers()[before].querySelector(".mv-text")?.textContent.slice(-400) ?? "";
        const found = [...end.matchAll(/(?:word|thing)(\\d+)/g)];
        window.frames_.push([performance.timeOrigin + performance.now(), Number(found.at(-1)?.[1] ?? -1)]);
    };
    document.addEventListener("mv-shown", () => {
        window.updates_ += 1;
        if (isWaiting) return;
        isWaiting = true;
        requestAnimationFrame(() => {
            const { port1, port2 } = new MessageChannel(); // its message comes once the frame is painted
            port1.onmessage = look;
            port2.postMessage(0);
        });
    });
}"""


def latencies(stamps: Sequence[float], frames: Sequence[Sequence[float]]) -> list[float]:
    """Milliseconds from each token to the first frame that shows it."""
    shown, found = 0, []
    for painted, newest in frames:
        while shown <= newest:
            found.append(painted - 1000 * stamps[shown])
            shown += 1
    return found


def way_to_the_screen(browser: Browser, url: str, server: subprocess.Popen[str], shape: str, rate: int) -> str:
    """A row of the table: one answer in a new tab that shows the long chat."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.add_init_script(f"sessionStorage.setItem('minivlm-conversation', JSON.stringify('{KEY}'))")
    page.goto(url)
    page.wait_for_function(f"document.querySelectorAll('.mv-answer').length >= {TURNS}", timeout=120_000)
    page.wait_for_timeout(2000)  # what comes by itself has come
    page.evaluate(WATCH)
    metrics = context.new_cdp_session(page)
    metrics.send("Performance.enable", {"timeDomain": "threadTicks"})  # its main thread's own time, not that of others

    def busy() -> float:
        found = metrics.send("Performance.getMetrics")["metrics"]
        return next(1000 * float(one["value"]) for one in found if one["name"] == "TaskDuration")

    process = psutil.Process(server.pid)
    before, spent = busy(), sum(process.cpu_times()[:2])
    page.locator("#mv-question textarea").fill(f"{shape} at {rate}")
    page.keyboard.press("Enter")
    assert server.stdout is not None
    stamps = json.loads(server.stdout.readline())
    spent = 1000 * (sum(process.cpu_times()[:2]) - spent)
    page.wait_for_timeout(2000)
    frames, updates = page.evaluate("[frames_, updates_]")
    cost = (busy() - before) / max(1, updates)
    context.close()
    found = latencies(stamps, frames)
    middle, high = percentile(found, 0.5), percentile(found, 0.95)
    times = f"{middle:.0f} | {high:.0f} | {max(found):.0f}"
    return f"| {shape} | {rate} | {times} | {updates} | {cost:.1f} | {spent / updates:.1f} |"


@contextmanager
def served() -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The page in a process of its own, which prints the times of every answer."""
    port = free_port()
    command = [sys.executable, "-m", "tests.app.page.speed", "serve", str(port)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert eventually(lambda: is_listening(port), timeout=120)
            yield f"http://127.0.0.1:{port}/", server
        finally:
            server.terminate()


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def main(argv: Sequence[str]) -> None:
    if argv[:1] == ["serve"]:
        return serve(int(argv[1]))
    shapes = argv or list(SHAPES)
    print("| Answer | server, median ms | p95 | most |\n|---|--:|--:|--:|")
    for shape in shapes:
        costs = server_costs(shape)
        print(f"| {shape} | {percentile(costs, 0.5):.1f} | {percentile(costs, 0.95):.1f} | {max(costs):.1f} |")
    print(
        "\n| Answer | tokens/s | to the screen, median ms | p95 | most | updates | browser ms each |\n|---"
        + "|--:" * 6
        + "|"
    )
    with served() as (url, server), sync_playwright() as playwright:
        chromium = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        for shape in shapes:
            for rate in RATES:
                print(way_to_the_screen(browser, url, server, shape, rate), flush=True)
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1:])
