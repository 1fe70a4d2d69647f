"""What the layer of limits sees of gradio's sessions, and what it keeps of gradio's page."""

from __future__ import annotations

import re
import sys
import threading
import zlib
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio.queueing
import gradio.route_utils
import httpx
import pytest
from gradio.brotli_middleware import BrotliResponder

from app.chat.answering import Rival
from app.limits.boundary import BoundedBlocks
from app.limits.gradio_app import GradioApp
from app.limits.policy import Limits
from app.page.page_state import PageState
from tests.app.helpers import picture
from tests.app.limits.visitors import FILE, ServeLimited, Visitor, listener_index
from tests.fakes import ScriptedModel
from tests.waiting import eventually


def test_a_question_with_two_answers_counts_twice() -> None:
    page = PageState()
    models = [ScriptedModel(gate=threading.Semaphore(0)) for _ in range(2)]
    queue = SimpleNamespace(event_ids_to_events={"e": 1}, pending_event_ids_session=defaultdict(set, mine={"e"}))
    holder = SimpleNamespace(session_data={"mine": SimpleNamespace(state_data={1: page, 2: "a value"})})
    blocks: Any = SimpleNamespace(_queue=queue, state_holder=holder)
    app: Any = SimpleNamespace(get_blocks=lambda: blocks)
    gradio = GradioApp(app)
    assert (gradio.num_unanswered("mine"), gradio.num_unanswered("another")) == (1, 0)
    page.session.begin(models[0], "what?", [picture()], rival=Rival(model=models[1]))
    assert gradio.num_unanswered("mine") == 2
    page.stop()
    assert gradio.num_unanswered("mine") == 1
    for model in models:
        model.open_gate()


def test_the_page_is_made_once_for_all_who_ask(serve_limited: ServeLimited, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each took tens of milliseconds, in which nobody else was served."""
    made: list[str] = []
    make = gradio.route_utils.update_root_in_config

    def counted(config: Any, root: str) -> Any:
        made.append(root)
        return make(config, root)

    url = serve_limited()
    monkeypatch.setattr(gradio.route_utils, "update_root_in_config", counted)
    port = url.rsplit(":", 1)[1].strip("/")
    for number, host in enumerate([f"127.0.0.1:{port}", f"localhost:{port}", "10.1.2.3", "[::1]:80"]):
        headers = {"host": host, "x-gradio-server": "https://evil.example"}
        for coding in ("gzip, br", "identity"):
            own = {**headers, "accept-encoding": coding}
            assert f'"root":"http://{host}"' in httpx.get(f"{url}?__theme=dark&n={number}", headers=own).text
            assert httpx.get(f"{url}config?deep_link={number}", headers=own).json()["root"] == f"http://{host}"
            assert "/chat" in httpx.get(f"{url}gradio_api/info", headers=own).json()["named_endpoints"]
            assert httpx.head(url, headers=own).status_code == 200
    assert len(made) <= 2  # the page itself may have been asked for already
    assert httpx.get(f"{url}config", headers={"host": "localhost:<b>"}).status_code == 421


def test_scripts_are_packed_once_for_all_who_ask(serve_limited: ServeLimited, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradio packs them for each request, and other files, too, while everybody waits."""
    url = serve_limited()
    visitor = Visitor(url)
    names = sorted(set(re.findall(r"assets/[\w.-]+\.(?:js|css)", visitor.client.get("/").text)))
    assert names
    plain = {name: httpx.get(url + name, headers={"accept-encoding": "identity"}).content for name in names}
    path = visitor.upload(b"x" * 100_000, "a.txt").json()[0]
    monkeypatch.setattr(zlib, "compressobj", lambda *_, **__: pytest.fail("packed again"))
    monkeypatch.setattr(BrotliResponder, "__call__", lambda *_: pytest.fail("packed"))
    for coding in ("br, gzip", "br", "gzip;q=1.0"):
        for name in names:
            answer = httpx.get(url + name, headers={"accept-encoding": coding})
            assert answer.content == plain[name]
            assert answer.headers.get("content-encoding", "") == ("gzip" if "gzip" in coding else "")
        for other in (f"gradio_api/file={path}", "static/img/logo.svg", "assets/%2e/" + names[0][7:]):
            answer = httpx.get(url + other, headers={"accept-encoding": coding})
            assert answer.status_code == 200
            assert "content-encoding" not in answer.headers


def test_nobody_fills_memory_with_words_that_a_question_is_over(serve_limited: ServeLimited) -> None:
    """Each leaves a message in the queue of a session, whose page need not read it."""
    url = serve_limited(Limits(unread_messages=20))
    visitor = Visitor(url)
    body = {"session_hash": visitor.session, "fn_index": 0, "event_id": visitor.join("hello").json()["event_id"]}
    statuses = [visitor.client.post("/gradio_api/cancel", json=body).status_code for _ in range(40)]
    assert set(statuses[-5:]) == {429}
    assert statuses.count(200) <= 22


def test_no_statistics_of_questions_are_made(serve_limited: ServeLimited, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table with pandas at the end of each of them, of all that were asked before: for a page that is closed."""
    monkeypatch.setattr(gradio.queueing.Queue, "_get_df", lambda *_: pytest.fail("a table was made"))
    visitor = Visitor(serve_limited())
    assert "A red circle." in visitor.ask("hello")
    queue = serve_limited.demo._queue  # type: ignore[attr-defined]
    assert eventually(lambda: not any(queue.active_jobs))
    assert not queue.event_analytics


def test_nothing_is_looked_for_at_each_step_of_an_answer(
    serve_limited: ServeLimited, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As gradio looks for matplotlib, in every folder of the path, with the loop that serves everybody."""
    looked_for: list[str] = []

    class Looks:
        def find_spec(self, name: str, *_: object) -> None:
            looked_for.append(name)

    visitor = Visitor(serve_limited())
    visitor.ask("hello")
    monkeypatch.setattr(sys, "meta_path", [Looks(), *sys.meta_path])
    assert "A red circle." in visitor.ask("hello")
    assert looked_for == []


def test_each_login_has_a_page_of_its_own(serve_limited: ServeLimited) -> None:
    url = serve_limited(auth=[("ann", "one"), ("bob", "two")])

    def cookies_of(name: str, password: str) -> httpx.Cookies:
        return httpx.post(f"{url}login", data={"username": name, "password": password}).cookies

    stranger = httpx.get(url).text
    cookies = {"ann": cookies_of("ann", "one"), "bob": cookies_of("bob", "two")}
    # Of two cookies gradio reads the first, which is nobody's, and would answer with the page for logging in.
    mixed = "; ".join(f"{name}={value if 'unsecure' in name else 'x'}" for name, value in cookies["ann"].items())
    httpx.get(url, headers={"cookie": mixed})
    for _ in range(2):
        for name, own in cookies.items():
            shown = {"cookie": "; ".join(f"{key}={value}" for key, value in own.items())}
            assert f'"username":"{name}"' in httpx.get(url, headers=shown).text
            assert httpx.get(f"{url}config", headers=shown).json()["username"] == name
    assert httpx.get(f"{url}config").status_code == 401
    assert "auth_required" in stranger
    assert httpx.get(url).text == stranger


def test_nobody_unquotes_a_strangers_cookies(serve_limited: ServeLimited, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python before 3.11.10 takes the square of their length for that: a third of a second for 15 KB."""
    url = serve_limited(auth=[("ann", "one")])
    own = httpx.post(f"{url}login", data={"username": "ann", "password": "one"}).cookies
    monkeypatch.setattr("http.cookies._unquote", lambda value: pytest.fail("unquoted") if '"' in value else value)
    hostile = ['a="' + "\\\\" * 7000 + '"', *(f'{name}="\\\\"' for name in own), "=", "b", ";;"]
    plain = [f"{name}={value}" for name, value in own.items()]
    for cookies, status in ((hostile, 401), (hostile + plain, 200)):
        answer = httpx.get(f"{url}config", headers={"cookie": "; ".join(cookies)})
        assert answer.status_code == status
    assert answer.json()["username"] == "ann"


def test_a_logout_ends_one_login_alone(serve_limited: ServeLimited) -> None:
    """Visitors share a name and its password: one of them could else log out all others, again and again."""
    url = serve_limited(auth=[("ann", "one")])

    def login() -> dict[str, str]:
        cookies = httpx.post(f"{url}login", data={"username": "ann", "password": "one"}).cookies
        # Over plain HTTP browsers send back only the cookie that is not marked as secure.
        return {"cookie": "; ".join(f"{name}={value}" for name, value in cookies.items() if "unsecure" in name)}

    first, second = login(), login()
    assert httpx.get(f"{url}logout?all_session=true", headers=first).status_code == 302
    assert httpx.get(f"{url}config", headers=first).status_code == 401
    assert httpx.get(f"{url}config", headers=second).status_code == 200


def test_no_address_is_fetched_for_a_visitor(serve_limited: ServeLimited, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradio fetched what a listener was sent as a file, if it was an address, and what was asked for as one."""
    asked: list[str] = []

    async def validate(host: str) -> str:
        asked.append(host)
        raise ValueError(host)

    monkeypatch.setattr("safehttpx.async_validate_url", validate)
    url = serve_limited()
    visitor, file = Visitor(url), {"path": "http://example.com/a.png", "meta": FILE}
    refused = visitor.press(listener_index(url, "attach"), [None, {"text": "", "files": [file]}])
    assert "fetches no address" in refused.text
    assert visitor.join("hello", ["https://example.com/b.png"]).status_code == 200
    assert "fetches no address" in str(visitor.updates())
    body = {"data": [None, "hello", [{"role": "user", "content": file}], 0, 1, 5, 1, 0]}
    event = visitor.client.post("/gradio_api/call/chat", json=body).json()["event_id"]
    assert "fetches no address" in visitor.client.get(f"/gradio_api/call/chat/{event}").text
    assert visitor.client.get("/gradio_api/file=http://example.com/a.png").status_code == 404
    assert not asked


def test_one_call_brings_so_many_files(serve_limited: ServeLimited) -> None:
    url = serve_limited()
    visitor = Visitor(url)
    path = visitor.upload(b"x").json()[0]
    many = [{"path": path, "meta": FILE}] * 101
    assert "the limit is 100" in visitor.press(listener_index(url, "attach"), [None, {"text": "", "files": many}]).text


def test_names_of_files_that_are_not_there_are_forgotten(
    serve_limited: ServeLimited, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gradio keeps each path that it was ever sent, whether or not there is such a file."""
    monkeypatch.setattr("app.limits.gradio_app.FILES_REMEMBERED", 9)
    url = serve_limited()
    visitor = Visitor(url)
    path = visitor.upload(b"x").json()[0]
    made_up = [{"path": f"{path}{number}", "meta": FILE} for number in range(50)]
    visitor.press(
        listener_index(url, "attach"), [None, {"text": "", "files": [{"path": path, "meta": FILE}, *made_up]}]
    )
    app = serve_limited.demo.app  # type: ignore[attr-defined]
    sets = app.get_blocks().temp_file_sets
    assert max(map(len, sets)) > 50
    GradioApp(app).forget_files()
    assert max(map(len, sets)) < 9
    assert any(path in names for names in sets)
    long = {"path": path + "x" * 3000, "meta": FILE}
    told = visitor.press(listener_index(url, "attach"), [None, {"text": "", "files": [long]}]).text
    assert "a name that is too long" in told


def test_an_error_can_forge_no_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    try:
        Path("/etc/x\nrefused 429: forged\x1b[2J\u2028forged").read_text(encoding="utf-8")
    except OSError as error:
        BoundedBlocks()._log(error)
    (line,) = [record.getMessage() for record in caplog.records if record.name == "app.limits.boundary"]
    assert "Traceback" in line
    assert "forged" in line
    assert "\x1b" not in line
    assert [one for one in line.splitlines()[1:] if not one.startswith("    ")] == []
