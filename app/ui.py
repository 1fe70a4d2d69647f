"""The page: components and which handler belongs to which. What the handlers do is in events.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from app.aids import with_aids
from app.box_tool import make_box_tool
from app.chat_model import ChatModel
from app.endpoint import add_chat_endpoint
from app.events import Handlers
from app.examples import FOLDER, examples_html, find_examples
from app.image_generation import INSTALL as INSTALL_GENERATOR
from app.image_generation import ImageGenerator
from app.page_text import TITLE, header_html, model_html, placeholder_html, tasks_html, toy_html
from app.session import ChatSession
from models.model_info import ModelInfo

ASSETS = Path(__file__).parent / "assets"

MAX_UPLOAD = "25mb"
MAX_STREAMS = 48  # answers the page streams at once; the model has its own, smaller limit and queue
MAX_WAITING = 128
EXPIRY = (3600, 24 * 3600)  # seconds: how often to look for uploads to delete, and their age by then

# What app.js asks for, by the name of the event.
_BRIDGE = """
document.addEventListener("minivlm", (event) => {
  const { name, ...detail } = event.detail;
  for (const known of ["edit", "retry", "undo", "cancel_edit", "attach", "example", "stop", "routing"]) {
    if (name === known) trigger(known, detail);
  }
});
"""


class ChatPage(gr.Blocks):
    """gr.Blocks whose launch is private and carries the page's own style, however it is launched."""

    def launch(self, *args: Any, **settings: Any) -> Any:
        """As gr.Blocks.launch; see `launch_options` for what is different by default."""
        return super().launch(*args, **{**launch_options(), **settings})


def launch_options() -> dict[str, Any]:
    """Defaults for launch: only this machine, nothing recorded, no upload above a limit, our style and script."""
    script = (ASSETS / "app.js").read_text(encoding="utf-8")
    return {
        "server_name": "127.0.0.1",
        "share": False,
        "run_history": False,
        "enable_monitoring": False,
        "max_file_size": MAX_UPLOAD,
        "max_threads": 2 * MAX_STREAMS,
        "allowed_paths": [str(ASSETS)],
        "footer_links": [],
        "favicon_path": str(ASSETS / "favicon.png"),
        "pwa": False,
        "ssr_mode": False,
        "theme": make_theme(),
        "css_paths": [ASSETS / "style.css"],
        "head": f'<meta name="referrer" content="no-referrer"><script>{script}</script>',
    }


def make_theme() -> gr.themes.Base:
    """The system's own fonts, so that nothing is fetched; colours are in style.css."""
    fonts = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")
    mono = ("ui-monospace", "SFMono-Regular", "Menlo", "monospace")
    return gr.themes.Base(
        primary_hue="indigo", neutral_hue="slate", radius_size="lg", font=list(fonts), font_mono=list(mono)
    )


def build_demo(
    model: ChatModel,
    *,
    new_scene: Callable[[], Image.Image] | None = None,
    examples_dir: Path = FOLDER,
) -> gr.Blocks:
    """The page for a model. `new_scene` draws a picture for the button of that name; without it there is no button."""
    model = with_aids(model)
    info = model.info
    examples = find_examples(info.tasks, examples_dir)
    handlers = Handlers(model, examples=examples, new_scene=new_scene)
    with ChatPage(title=TITLE, analytics_enabled=False, delete_cache=EXPIRY, fill_height=True) as demo:
        session = gr.State(ChatSession(), delete_callback=ChatSession.stop)
        parts = _Parts(info, examples_html(examples) if examples else "", has_scenes=new_scene is not None)
        _connect(parts, handlers, session)
        demo.load(None, js="() => window.minivlm.start()")
        demo.unload(_stop_of(demo, session))
        add_chat_endpoint(model, concurrency_limit=MAX_STREAMS)
    demo.queue(max_size=MAX_WAITING, default_concurrency_limit=MAX_STREAMS)
    return demo


def _stop_of(demo: gr.Blocks, session: gr.State) -> Callable[[gr.Request], None]:
    """What ends the answer of a closed tab.

    Gradio ends listeners itself, but only through the stream that carries their output to the browser: it does not
    notice a tab that was closed before its browser had opened that stream.
    """

    def stop(request: gr.Request) -> None:
        held = demo.state_holder.session_data.get(request.session_hash or "")
        if held is not None:
            held[session._id].stop()

    return stop


class _Parts:
    """The components, from top to bottom."""

    def __init__(self, info: ModelInfo, examples: str, *, has_scenes: bool) -> None:
        takes_box = any(task.takes_box for task in info.tasks)
        self.settings = _settings(info)
        gr.HTML(header_html(info), apply_default_css=False, elem_id="mv-header")
        if info.is_toy:
            gr.HTML(toy_html(), apply_default_css=False, elem_id="mv-toy")
        self.chat = gr.Chatbot(
            elem_id="mv-chat",
            label="Conversation",
            show_label=False,
            container=False,
            buttons=[],
            latex_delimiters=[],
            autoscroll=False,  # app.js does it; gradio would still pull a reader down 0.3 s after an update
            height=None,
            layout="bubble",
            placeholder=placeholder_html(info),
        )
        if examples:
            gr.HTML(examples, apply_default_css=False, elem_id="mv-examples")
        self.tool = make_box_tool() if takes_box else gr.State(None)
        self.notice = gr.HTML("", apply_default_css=False, elem_id="mv-notice")
        with gr.Row(elem_id="mv-tasks-row"):
            self.tasks = [
                gr.Button(task.label, size="sm", elem_id=f"mv-task-{index}", elem_classes="mv-chip", min_width=0)
                for index, task in enumerate(info.tasks)
            ]
            self.new_scene = gr.Button(
                "New scene", size="sm", elem_id="mv-new-scene", elem_classes="mv-chip", min_width=0, visible=has_scenes
            )
            self.reset = gr.Button("New chat", size="sm", elem_id="mv-new-chat", elem_classes="mv-chip", min_width=0)
        gr.HTML(tasks_html(info), apply_default_css=False, elem_id="mv-tasks")
        self.question = gr.MultimodalTextbox(
            elem_id="mv-question",
            label="Question",
            show_label=False,
            container=False,
            placeholder="Drop, paste or choose an image, and ask about it",
            file_types=["image"],
            file_count="multiple",
            sources=["upload"],
            lines=1,
            max_lines=8,
            max_plain_text_length=10**9,  # no paste becomes a text file; one that is too long is refused as a question
        )
        self.key = gr.HTML("", elem_id="mv-key", visible="hidden")
        self.bridge = gr.HTML("", js_on_load=_BRIDGE, elem_id="mv-bridge", visible="hidden")


def _settings(info: ModelInfo) -> Sequence[gr.components.Component]:
    """The sidebar, with the family's defaults."""
    defaults = info.sampling
    with gr.Sidebar(position="right", open=False, elem_id="mv-settings", label="Settings"):
        gr.Markdown("## Settings\nFor the next answer. Each answer keeps its own under *Details*.")
        most = max(defaults.max_new_tokens, min(1024, info.context_tokens))
        components: list[gr.components.Component] = [
            gr.Slider(0, 2, defaults.temperature, step=0.05, label="Temperature", info="0 always takes the likeliest."),
            gr.Slider(0.05, 1, defaults.top_p, step=0.05, label="Top-p", info="Draw from this share of likely tokens."),
            gr.Slider(1, most, defaults.max_new_tokens, step=1, label="Max new tokens", info="Longest answer."),
            gr.Slider(1, 2, defaults.repetition_penalty, step=0.05, label="Repetition penalty", info="1 is none."),
            gr.Textbox(
                "" if defaults.seed is None else str(defaults.seed),
                label="Seed",
                info="The same seed gives the same answer.",
                placeholder="A new one for every answer",
                max_lines=1,
            ),
        ]
        components += _aids(info)
        gr.HTML(model_html(info), apply_default_css=False)
    return components


def _aids(info: ModelInfo) -> list[gr.components.Component]:
    """Switches for what works beside the model, where a family was trained with it (see `events.wishes_of`)."""
    if info.aids is None:
        return []
    has_generator = ImageGenerator.is_installed()
    missing = "" if has_generator else f" It is not installed, so the description is shown: {INSTALL_GENERATOR}"
    return [
        gr.Checkbox(
            info.aids.ocr,
            label="Read text (OCR)",
            info="Text found in the image is added to the question. With dense text it can hurt.",
            elem_id="mv-ocr",
        ),
        gr.Checkbox(
            info.aids.generate,
            label="Draw a picture",
            info=f"The model is asked to describe one; {info.aids.image_generator} draws it.{missing}",
            elem_id="mv-generate",
        ),
    ]


def _connect(parts: _Parts, handlers: Handlers, session: gr.State) -> None:
    """Who listens to what. Long-running listeners go through the queue, quick ones do not."""
    view = [parts.chat, parts.question, parts.notice, parts.tool, session, parts.key]
    streams: dict[str, Any] = {
        "outputs": view,
        "show_progress": "hidden",
        "concurrency_limit": MAX_STREAMS,
        "concurrency_id": "answers",
        "api_visibility": "private",
        "trigger_mode": "multiple",  # "once" would drop a question without a word while an answer is ending
    }
    quick: dict[str, Any] = {"outputs": view, "show_progress": "hidden", "queue": False, "api_visibility": "private"}
    asked = [session, parts.key, parts.question, parts.tool, *parts.settings]
    parts.question.submit(handlers.ask, asked, **streams)
    parts.bridge.retry(handlers.retry, [session, *parts.settings], **streams)
    for stopped in (parts.question.stop, parts.bridge.stop):
        stopped(handlers.stop, [session], show_progress="hidden", queue=False, api_visibility="private")
    parts.reset.click(handlers.reset, [session], **quick)
    parts.bridge.undo(handlers.undo, [session, parts.question], **quick)
    parts.bridge.edit(handlers.edit, [session, parts.question], **quick)
    parts.bridge.cancel_edit(handlers.cancel_edit, [session], **quick)
    parts.bridge.attach(handlers.attach, [session, parts.question], trigger_mode="always_last", **quick)
    parts.bridge.example(handlers.example, **quick)
    one_at_a_time = {"concurrency_limit": 1, "concurrency_id": "routing"}  # each is one more pass of the model
    parts.bridge.routing(handlers.routing, [session], **{**streams, **one_at_a_time})
    parts.new_scene.click(handlers.new_scene, [parts.question], **quick)
    for index, button in enumerate(parts.tasks):
        button.click(partial(handlers.choose_task, index), [session, parts.question], **quick)
    parts.question.change(None, [parts.question], js="(value) => window.minivlm.questionChanged(value)")
