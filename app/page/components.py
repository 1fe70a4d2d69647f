"""The page: components and which handler belongs to which. What the handlers do is in handlers.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from app.api.chat_endpoint import add_chat_endpoint
from app.api.chat_values import PageWithEndpoint
from app.chat.conversation_store import ConversationStore
from app.chat.feedback import FeedbackFile
from app.library.downloads import Downloads
from app.library.library import ModelLibrary
from app.limits.boundary import BoundedBlocks
from app.limits.gradio_app import put_into_html
from app.page.chat_files import add_chat_files, menu_html
from app.page.choosing.page_models import PageModels
from app.page.choosing.picker import Picker, add_picker
from app.page.code_sheet import add_code_sheet
from app.page.comparing.bar import CompareBar, add_compare_bar, make_bar
from app.page.comparing.rating import add_rating
from app.page.conversation_component import QuickBlocks, make_conversation, make_pixels, wanted_pixels
from app.page.examples import FOLDER, examples_html, examples_in
from app.page.fixed_texts import TITLE, chips_html, header_html, placeholder_html, tasks_html, toy_html
from app.page.handlers import Handlers
from app.page.page_state import PageState
from app.page.question.box import QuestionBox
from app.page.question.question_pictures import QuestionPictures
from app.page.settings import connect_settings, make_settings
from app.page.stage import STAGE_SCRIPTS, make_stage
from app.page.tabs import forget_tab, unload_listener
from engine.chat_model import ChatModel
from models.model_info import ModelInfo

ASSETS = Path(__file__).parent / "assets"
SCRIPT_FOLDER, STYLE_FOLDER = ASSETS / "scripts", ASSETS / "styles"
# In this order; each is a function of its own that leaves nothing but `window.minivlm`.
SCRIPTS = (
    *("elements.js", "phrases.js", "app.js", "pictures.js", "growing.js", "conversation.js", "follow.js", "keep.js"),
    *(
        "lines.js",
        "send.js",
        "box.js",
        "input.js",
        "roles.js",
        "chat_file.js",
        "tabs.js",
        "library.js",
        "code.js",
        "compare.js",
    ),
    *STAGE_SCRIPTS,
)
STYLES = (  # later ones outweigh
    "theme.css",
    "layout.css",
    "messages.css",
    "text.css",
    "composer.css",
    "stage.css",
    "input.css",
    "library.css",
    "code.css",
    "compare.css",
    "narrow.css",
)

MAX_UPLOAD = "25mb"
MAX_STREAMS = 48  # answers the page streams at once; the model has its own, smaller limit and queue
SECONDS_BETWEEN_RANKS = (
    5.0  # that who waits is told his place; gradio would tell all of it whenever somebody's turn comes
)
MAX_WAITING = 1024  # questions; the layer in front of the server lets fewer in, and each address its part
EXPIRY = (3600, 24 * 3600)  # seconds: how often to look for uploads to delete, and their age by then

# What app.js asks for, by the name of the event.
_BRIDGE = """
document.addEventListener("minivlm", (event) => {
  const { name, ...detail } = event.detail;
  for (const known of [
    "edit", "retry", "undo", "cancel_edit", "branch", "attach", "example", "ask_text",
    "stop", "routing", "crop", "save_html", "save_json", "new_with_picture",
    "look", "pixels", "task", "models", "choose_model", "download", "rate", "code", "compare", "go_on", "vote",
  ]) {
    if (name === known) trigger(known, detail);
  }
});
"""


class ChatPage(PageWithEndpoint, BoundedBlocks, QuickBlocks):
    """gr.Blocks whose launch is private and carries the page's own style, however it is launched."""

    def launch(self, *args: Any, **settings: Any) -> Any:
        """As gr.Blocks.launch; see `launch_options` for what is different by default."""
        return super().launch(*args, **{**launch_options(), **settings})


def launch_options() -> dict[str, Any]:
    """Defaults for launch: only this machine, nothing recorded, no upload above a limit, our style and script."""
    put_into_html((SCRIPT_FOLDER / "early.js").read_text(encoding="utf-8"))
    script = "\n".join((SCRIPT_FOLDER / name).read_text(encoding="utf-8") for name in SCRIPTS)
    return {
        "server_name": "127.0.0.1",
        "share": False,
        "run_history": False,
        "enable_monitoring": False,
        "max_file_size": MAX_UPLOAD,
        "max_threads": 4 * MAX_STREAMS,
        "allowed_paths": [str(ASSETS)],
        "footer_links": [],
        "favicon_path": str(ASSETS / "favicon.png"),
        "pwa": False,
        "ssr_mode": False,
        "theme": make_theme(),
        "css_paths": [STYLE_FOLDER / name for name in STYLES],
        "head": (
            f'<meta name="referrer" content="no-referrer"><script>{script}</script>'
            f'<style media="print">{(STYLE_FOLDER / "print.css").read_text(encoding="utf-8")}</style>'
        ),
    }


def make_theme() -> gr.themes.Base:
    """The system's own fonts, so that nothing is fetched; colours are in theme.css. Text has the size that readers have
    set in their browser; gradio's own is in pixels."""
    fonts = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")
    mono = ("ui-monospace", "SFMono-Regular", "Menlo", "monospace")
    steps = {"xxs": 9, "xs": 10, "sm": 12, "md": 14, "lg": 16, "xl": 22, "xxl": 26}
    text = gr.themes.Size(name="text_rem", **{name: f"{pixels / 16}rem" for name, pixels in steps.items()})
    return gr.themes.Base(
        primary_hue="indigo",
        neutral_hue="slate",
        text_size=text,
        radius_size="lg",
        font=list(fonts),
        font_mono=list(mono),
    )


def build_demo(
    model: ChatModel,
    *,
    new_scene: Callable[[], Image.Image] | None = None,
    examples_dir: Path = FOLDER,
    store: ConversationStore[PageState] | None = None,
    library: ModelLibrary | None = None,
    feedback: FeedbackFile | None = None,
    downloads: Downloads | None = None,
) -> gr.Blocks:
    """The page for a model. `new_scene` draws a picture for the button of that name; without it there is no button.

    `store` keeps the conversations of all visitors; a new one if none is given. With a `library`, of which `model` is
    one, visitors can choose another; with `feedback` they can say what they think of answers, with `downloads` they
    can fetch what a model of the library lacks.
    """
    info = model.info
    examples = examples_in(examples_dir)
    models = PageModels(model, library)
    handlers = Handlers(model, examples=examples, store=store, models=models, is_rated=bool(feedback))
    has_scenes = new_scene is not None
    cards = examples_html(examples(info)) if examples(info) else ""
    with ChatPage(title=TITLE, analytics_enabled=False, delete_cache=EXPIRY, fill_height=True) as demo:
        page = gr.State(PageState(), delete_callback=lambda shown: forget_tab(demo, handlers, page, shown))
        parts = _Parts(info, cards, has_scenes=has_scenes, has_choice=models.has_choice)
        _connect(parts, handlers, QuestionPictures(handlers, new_scene), page, feedback)
        _connect_keeping(demo, parts, handlers, page)
        if library is not None:
            picker = Picker(handlers, library, examples, has_scenes=has_scenes, downloads=downloads)
            add_picker(picker, demo, parts, page)
        add_compare_bar(CompareBar(handlers, library), demo, parts, page)
        add_chat_endpoint(model, concurrency_limit=MAX_STREAMS)
    demo.queue(max_size=MAX_WAITING, default_concurrency_limit=MAX_STREAMS, status_update_rate=SECONDS_BETWEEN_RANKS)
    return demo


def _connect_keeping(demo: gr.Blocks, parts: _Parts, handlers: Handlers, page: gr.State) -> None:
    """What the browser keeps comes back when the page is opened; what it shows is kept there from then on."""
    # Not behind the questions of others: most pages that are opened only ask whether there is something to show.
    apart = {**_streams(parts, page), "concurrency_id": "opened"}
    demo.load(handlers.resume, parts.key, js="() => [window.minivlm.start()]", **apart)
    demo.load(None, parts.question, parts.question, js="(value) => window.minivlm.keptDraft(value)")
    demo.load(None, parts.settings, parts.settings, js="(...values) => window.minivlm.keptSettings(values)")
    connect_settings(parts.info, parts.settings)
    for setting in parts.settings:
        keep = "(...values) => window.minivlm.keepSettings(values)"
        setting.change(None, parts.settings, js=keep)  # type: ignore[attr-defined]
    parts.key.change(None, parts.key, js="(key) => window.minivlm.keepKey(key)")
    demo.unload(unload_listener(demo, handlers, page))


class _Parts:
    """The components, from top to bottom."""

    def __init__(self, info: ModelInfo, examples: str, *, has_scenes: bool, has_choice: bool) -> None:
        self.info = info
        self.settings, self.facts = make_settings(info, for_any=has_choice)
        header = header_html(info, menu_html(), has_choice=has_choice)
        gr.HTML(header, apply_default_css=False, elem_id="mv-header")
        if info.is_toy or has_choice:
            gr.HTML(toy_html(), apply_default_css=False, elem_id="mv-toy")
        self.tool = make_stage(info, examples)
        self.chat = make_conversation(placeholder_html(info))
        self.notice = gr.HTML("", apply_default_css=False, elem_id="mv-notice")
        with gr.Row(elem_id="mv-tasks-row"):
            self.compare = make_bar()
            self.chips = gr.HTML(chips_html(info), apply_default_css=False, elem_id="mv-task-chips")
            self.new_scene = gr.Button(
                "New scene",
                size="sm",
                elem_id="mv-new-scene",
                elem_classes="mv-chip",
                min_width=0,
                visible=has_scenes and info.is_toy,
            )
            self.reset = gr.Button("New chat", size="sm", elem_id="mv-new-chat", elem_classes="mv-chip", min_width=0)
        self.hint = gr.HTML(tasks_html(info), apply_default_css=False, elem_id="mv-tasks")
        self.box = QuestionBox()
        self.question = self.box.question
        self.key = gr.HTML("", elem_id="mv-key", visible="hidden")
        self.pixels = make_pixels()
        self.bridge = gr.HTML("", js_on_load=_BRIDGE, elem_id="mv-bridge", visible="hidden")


def _view(parts: _Parts, page: gr.State) -> list[Any]:
    """The components of a `View`, in its order."""
    return [parts.chat, parts.question, parts.notice, parts.tool, page, parts.key, parts.box.files, parts.box.taken]


def _without_progress(page: gr.State) -> dict[str, Any]:
    """No progress is shown, on a component that is not drawn: for those that are, gradio counts the time in every frame
    and copies all that they hold with every update of an answer, even if nothing is shown."""
    return {"show_progress": "hidden", "show_progress_on": page}


def _streams(parts: _Parts, page: gr.State) -> dict[str, Any]:
    """How the listeners that show an answer are connected."""
    return {
        "outputs": _view(parts, page),
        **_without_progress(page),
        "concurrency_limit": MAX_STREAMS,
        "concurrency_id": "answers",
        "api_visibility": "private",
        "trigger_mode": "multiple",  # "once" would drop a question without a word while an answer is ending
    }


def _connect(
    parts: _Parts, handlers: Handlers, pictures: QuestionPictures, page: gr.State, feedback: FeedbackFile | None
) -> None:
    """Who listens to what. Long-running listeners go through the queue, quick ones do not."""
    view, streams = _view(parts, page), _streams(parts, page)
    quick = {"outputs": view, **_without_progress(page), "queue": False, "api_visibility": "private"}
    asked = [page, parts.key, parts.question, parts.tool, *parts.settings]
    as_sent = f"(...all) => window.minivlm.asSent(all.slice(0, {len(asked)}))"  # gradio adds the outputs' values
    parts.question.submit(handlers.ask, asked, js=as_sent, **streams)
    parts.bridge.ask_text(handlers.ask_text, asked, **streams)
    parts.bridge.retry(handlers.retry, [page, *parts.settings], **streams)
    for stopped in (parts.question.stop, parts.bridge.stop):
        stopped(handlers.stop, [page], **{**quick, "outputs": None})
    parts.reset.click(handlers.reset, [page], **quick)
    parts.bridge.undo(handlers.undo, [page, parts.question], **quick)
    parts.bridge.edit(handlers.edit, [page, parts.question], **quick)
    parts.bridge.branch(handlers.branch, [page], **quick)
    parts.bridge.go_on(handlers.go_on, [page], **quick)
    parts.bridge.cancel_edit(handlers.cancel_edit, [page], **quick)
    parts.bridge.example(handlers.example, [page, parts.key, parts.tool, *parts.settings], **streams)
    parts.bridge.look(handlers.look, [page], **{**streams, "concurrency_id": "opened"})
    parts.bridge.pixels(wanted_pixels, [page], trigger_mode="multiple", **{**quick, "outputs": parts.pixels})
    one_at_a_time = {"concurrency_limit": 1, "concurrency_id": "routing"}  # each is one more pass of the model
    add_chat_files(handlers, parts.bridge, page, quick, parts.notice)
    add_code_sheet(handlers.models, parts.bridge, page, quick, parts.notice)
    parts.bridge.routing(handlers.routing, [page], **{**streams, **one_at_a_time})
    if feedback is not None:
        add_rating(handlers, feedback, parts.bridge, page, quick)
    parts.bridge.task(None, parts.question, parts.question, js="(value) => window.minivlm.withTask(value)")
    pictures.connect(parts.bridge, parts.box, page, quick)
    parts.new_scene.click(pictures.new_scene, [page], **quick)
    parts.box.connect()
