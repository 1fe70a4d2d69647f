"""What the layer must know of gradio's server: its listeners, what it keeps per session, and who is logged in.

Everything here that is private to gradio is in this file, fair_queue.py and upload_forms.py.
"""

from __future__ import annotations

import os
import re
from contextlib import nullcontext
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import gradio.route_utils
import gradio.routes
import gradio.utils
from gradio.state_holder import SessionState, StateHolder

from app.limits.budgets import ProcessorShare
from app.limits.fair_queue import FairQueue
from app.limits.refusal import Refused
from app.limits.upload_forms import FormOfFiles, UploadProgress

if TYPE_CHECKING:
    from gradio.blocks import BlockFunction, Blocks
    from gradio.routes import App


FILES_REMEMBERED = 1000  # names, of each component
COOKIES = ("minivlm-", "__Host-minivlm-", "access-token-")  # how the names of all begin that mean something here
_PLAIN = re.compile(r"[A-Za-z0-9._~-]{1,256}")
PAGES = ("frontend/index.html", "frontend/share.html")


class GradioApp:
    """Gradio's server, seen from the layer in front of it. Implements `KeptSessions`."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._blocks = app.get_blocks()

    @property
    def upload_folder(self) -> str:
        """Where uploads go."""
        return str(self._app.uploaded_file_dir)

    @property
    def connections(self) -> Any:
        """uvicorn's open connections, once it listens."""
        server = getattr(self._blocks, "server", None)
        return server.server_state.connections if server is not None else ()

    @property
    def edition(self) -> tuple[int, bool]:
        """Another one once the page is another."""
        return id(self._blocks.config), bool(self._blocks.share)

    # Listeners

    def public_listener(self, name: str) -> BlockFunction:
        """The listener that programs may call by this name. Raises Refused where there is none."""
        for listener in self._blocks.fns.values():
            if listener.api_name == name and listener.api_visibility == "public":
                return listener
        raise Refused(404, "There is no public function of that name.")

    def listener(self, index: object, *, queued: bool) -> BlockFunction:
        """The listener with this index that waits in the queue, or one that does not. Raises Refused."""
        listener = self._blocks.fns.get(index) if isinstance(index, int) and not isinstance(index, bool) else None
        if listener is None or listener.fn is None or bool(listener.queue) is not queued:
            raise Refused(404, "There is no such function here.")
        return listener

    def serve_in_turns(self, share: ProcessorShare) -> None:
        """Begin the questions of all visitors by turns, and let each have its share of the processor; from now on."""
        self._blocks.processor = share  # type: ignore[attr-defined]
        queue = self._blocks._queue
        queue.get_events = FairQueue(queue).get_events  # type: ignore[method-assign]

    def keep_little(self) -> None:
        """From now on sessions keep what visitors did and no description of the page, and the queue no statistics.

        At the end of each question gradio would make a table of the last 10,000 with pandas, for a page that is closed
        here: up to 20 ms in which nobody else is served. At each step of each answer it would look for matplotlib,
        which draws nothing here, twice, and where that is not installed, in every folder of the path.
        """
        gradio.utils.MatplotlibBackendMananger = nullcontext  # type: ignore[assignment, misc]
        queue = self._blocks._queue
        queue.ANALYTICS_MAX_EVENTS = 0
        queue.compute_analytics_summary = lambda _: {}  # type: ignore[method-assign]
        states = _States()
        states.set_blocks(self._blocks)
        self._app.state_holder = states

    def read_uploads(self) -> None:
        """Read forms and keep their progress with our own classes; from now on, in every server of this process."""
        gradio.route_utils.GradioMultiPartParser = FormOfFiles  # type: ignore[misc]
        gradio.routes.file_upload_statuses = UploadProgress()

    # Sessions

    def is_answering(self, session: str) -> bool:
        """Whether a question of the session is waiting or being answered."""
        return self.num_unanswered(session) > 0

    def num_unanswered(self, session: str) -> int:
        """See KeptSessions. A question that two models answer counts twice while they do."""
        queue, kept = self._blocks._queue, self._blocks.state_holder.session_data.get(session)
        asked = sum(event in queue.event_ids_to_events for event in queue.pending_event_ids_session.get(session, ()))
        values = list(kept.state_data.values()) if kept is not None else []
        return asked + sum(getattr(value, "more_answers", 0) for value in values)

    def check_unread(self, session: str, most: int) -> None:
        """Raise Refused where the session has not fetched more messages about its answers than these."""
        messages = self._blocks._queue.pending_messages_per_session
        if session in messages and messages[session].qsize() > most:
            raise Refused(429, "This page has not read the answers to its last questions. Load it again.")

    def session_of_event(self, event: str) -> str:
        """The session that a call belongs to; a call that named none has its own name for one."""
        queue = self._blocks._queue
        if event in queue.event_ids_to_events:
            return str(queue.event_ids_to_events[event].session_hash)
        return next((name for name, events in queue.pending_event_ids_session.items() if event in events), event)

    def forget(self, session: str) -> None:
        """Free the state of its components and what it has not fetched of its answers."""
        holder, queue = self._blocks.state_holder, self._blocks._queue
        if session in holder.session_data:
            holder.session_data[session].is_closed = True  # of those whose closing was reported, gradio has noted it
        holder.delete_state(session)  # ends a running answer
        holder.session_data.pop(session, None)
        holder.time_last_used.pop(session, None)
        queue.pending_messages_per_session.pop(session, None)
        queue.pending_event_ids_session.pop(session, None)

    def forget_files(self) -> None:
        """Forget files that are gone or never were: gradio keeps the names of all that it was ever sent."""
        for names in self._blocks.temp_file_sets:
            if len(names) > FILES_REMEMBERED:
                names -= {name for name in list(names) if not os.path.isfile(name)}

    # Login

    @property
    def asks_for_login(self) -> bool:
        """Whether visitors need a password."""
        return self._app.auth is not None

    def is_logged_in(self, cookies: dict[str, str]) -> bool:
        """Whether these cookies are those of somebody who has logged in, or nobody needs to."""
        return not self.asks_for_login or bool(self.login_of(cookies)[0])

    def login_of(self, cookies: dict[str, str]) -> tuple[str, bytes]:
        """Who has logged in with these cookies, and the cookie that says so to gradio; both empty for nobody."""
        for name in self._login_cookies:
            token = cookies.get(name)
            if (user := self._app.tokens.get(token)) is not None:
                return str(user), f"{name}={token}".encode()
        return "", b""

    def log_out(self, cookies: dict[str, str]) -> None:
        """End the login of these cookies, and no other. Gradio ends every login of the same name, which many may share,
        or else that of one of the two cookies, which browsers do not send without TLS."""
        for name in self._login_cookies:
            self._app.tokens.pop(cookies.get(name), None)

    @property
    def _login_cookies(self) -> tuple[str, str]:
        return f"access-token-{self._app.cookie_id}", f"access-token-unsecure-{self._app.cookie_id}"


class _States(StateHolder):
    def __getitem__(self, session: str) -> SessionState:
        if session not in self.session_data:
            self.session_data[session] = _Session(self.blocks)
        return super().__getitem__(session)


class _Session(SessionState):
    """A session without a description of every component as it is now.

    Gradio writes them for links to a page's state (which are closed here) while everybody waits: 4.5 ms of processor
    time for a new session of our page, and more at each press that changes a component.
    """

    def __init__(self, blocks: Blocks) -> None:
        described: Any = SimpleNamespace(default_config=blocks.default_config, blocks={})  # none of them
        super().__init__(described)
        self.blocks_config.config_for_block = lambda *_: {}  # type: ignore[method-assign]


def put_into_html(script: str) -> None:
    """From now on this runs in every page before gradio's own script has come; `head` of a page comes after that."""
    loader: Any = gradio.routes.templates.env.loader
    read = getattr(loader.get_source, "original", loader.get_source)

    def get_source(environment: Any, name: str) -> tuple[str, Any, Any]:
        html, file, is_current = read(environment, name)
        if name in PAGES:
            html = html.replace("<head>", f"<head><script>{{% raw %}}{script}{{% endraw %}}</script>", 1)
        return html, file, is_current

    get_source.original = read  # type: ignore[attr-defined]
    loader.get_source = get_source


def cookies_of(text: str | None) -> dict[str, str]:
    """The cookies of a request that this program or gradio has given out, in a header of any length.

    Ours are never quoted; to unquote a value some versions of Python take the square of its length.
    """
    pairs = (one.strip().partition("=") for one in (text or "").split(";"))
    return {name: value for name, _, value in pairs if name.startswith(COOKIES) and _PLAIN.fullmatch(value)}
