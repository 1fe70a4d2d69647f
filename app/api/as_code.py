"""An answer of the page as code: the calls that give it again, by curl, openai's client and gradio's.

Pictures are file names, to be read where the code runs. Everything else is written out, the seed included.
"""

from __future__ import annotations

import json
import mimetypes
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.chat.exchange import Exchange
from models.conversation import Sampling
from models.sampling_settings import settings_of

KEY_VARIABLE = "MINIVLM_API_KEY"
KINDS = (
    *("image/png", "image/jpeg", "image/webp", "image/gif", "image/bmp"),
    *("image/tiff", "image/avif", "image/heic", "image/heif"),
)

# Settings by the names of OpenAI's client; all others go into its `extra_body`.
_OPENAI_NAMES = {
    "temperature": "temperature",
    "top_p": "top_p",
    "max_new_tokens": "max_completion_tokens",
    "seed": "seed",
}


@dataclass(frozen=True, kw_only=True)
class Server:
    """Where the code asks. `url` is the page's address, `model` the name in `/v1/models`."""

    url: str
    model: str
    needs_key: bool = False
    has_extras: bool = False  # the model reads text in images: `/chat` then takes more values

    @property
    def base_url(self) -> str:
        return f"{self.url.rstrip('/')}/v1"


@dataclass(frozen=True)
class _Asked:
    """A question with the names of its pictures; `answer` is empty for the last."""

    question: str
    pictures: tuple[str, ...]
    answer: str = ""


def as_code(exchanges: Sequence[Exchange], index: int, server: Server) -> dict[str, str]:
    """Code by its name (`curl`, `openai`, `gradio_client`) for the answer of exchange `index`.

    `gradio_client` is left out where `/chat` can't say it: several pictures, or one in a later question.
    """
    asked = _asked(exchanges, index)
    exchange = exchanges[index]
    code = {
        "curl": _curl(asked, exchange, server),
        "openai": _openai(asked, exchange, server),
    }
    later = [name for one in asked[1:] for name in one.pictures]
    if not later and len(asked[0].pictures) <= 1:
        code["gradio_client"] = _gradio_client(asked, exchange, server)
    return code


def _asked(exchanges: Sequence[Exchange], index: int) -> list[_Asked]:
    """What the model saw, as `ChatSession.turns` has it: pictures of unanswered questions go to the next one."""
    first = max((place for place in range(index + 1) if exchanges[place].begins_anew), default=0)
    asked: list[_Asked] = []
    waiting: tuple[str, ...] = ()
    for place in range(first, index + 1):
        exchange = exchanges[place]
        names = tuple(picture.name for picture in exchange.pictures) or waiting
        if place < index and not exchange.text:
            waiting = names
            continue
        waiting = ()
        asked.append(_Asked(exchange.question, names, exchange.text if place < index else ""))
    return asked


def _fields(exchange: Exchange, server: Server) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings as OpenAI names them, and those that it lacks."""
    sampling: Sampling = exchange.sampling
    known: dict[str, Any] = {}
    others: dict[str, Any] = {}
    for setting in settings_of(sampling):
        value = getattr(sampling, setting.name)
        if value is None:
            continue
        if setting.name in _OPENAI_NAMES:
            known[_OPENAI_NAMES[setting.name]] = value
        else:
            others[setting.name] = value
    if server.has_extras:
        others["read_text"] = exchange.extras.reads_text
    return known, others


def _curl(asked: Sequence[_Asked], exchange: Exchange, server: Server) -> str:
    known, others = _fields(exchange, server)
    marks: dict[str, str] = {}
    messages: list[dict[str, Any]] = []
    for one in asked:
        parts: list[dict[str, Any]] = []
        for name in one.pictures:
            mark = f"@picture{len(marks)}@"
            marks[mark] = f"data:{_kind(name)};base64,$(base64 < {shlex.quote(name)} | tr -d '\\n')"
            parts.append({"type": "image_url", "image_url": {"url": mark}})
        messages.append({"role": "user", "content": [*parts, {"type": "text", "text": one.question}]})
        if one.answer:
            messages.append({"role": "assistant", "content": one.answer})
    body = json.dumps({"model": server.model, "messages": messages, **known, **others}, ensure_ascii=False, indent=1)
    for special in ("\\", "$", "`"):  # what a shell would expand in the lines up to END
        body = body.replace(special, f"\\{special}")
    for mark, command in marks.items():
        body = body.replace(json.dumps(mark), f'"{command}"', 1)
    key = f' -H "Authorization: Bearer ${KEY_VARIABLE}"' if server.needs_key else ""
    address = f"{server.base_url}/chat/completions"
    return f"curl {address} -H 'Content-Type: application/json'{key} -d @- <<END\n{body}\nEND\n"


def _openai(asked: Sequence[_Asked], exchange: Exchange, server: Server) -> str:
    known, others = _fields(exchange, server)
    lines = ["import base64"] * any(one.pictures for one in asked)
    lines += ["import os"] * server.needs_key
    lines += ["", "from openai import OpenAI", ""]
    if any(one.pictures for one in asked):
        lines += [
            "",
            "def picture(path, kind):",
            '    with open(path, "rb") as file:',
            "        data = base64.b64encode(file.read()).decode()",
            '    return {"type": "image_url", "image_url": {"url": f"data:{kind};base64,{data}"}}',
            "",
            "",
        ]
    key = f'os.environ["{KEY_VARIABLE}"]' if server.needs_key else '"none"'
    lines += [
        f"client = OpenAI(base_url={server.base_url!r}, api_key={key})",
        "answer = client.chat.completions.create(",
        f"    model={server.model!r},",
        "    messages=[",
    ]
    for one in asked:
        parts = [f"picture({name!r}, {_kind(name)!r})" for name in one.pictures]
        parts.append(f'{{"type": "text", "text": {one.question!r}}}')
        lines.append(f'        {{"role": "user", "content": [{", ".join(parts)}]}},')
        if one.answer:
            lines.append(f'        {{"role": "assistant", "content": {one.answer!r}}},')
    lines += ["    ],", *_arguments(known)]
    lines += [f"    extra_body={others!r},"] * bool(others)
    return "\n".join([*lines, ")", "print(answer.choices[0].message.content)"]).lstrip() + "\n"


def _gradio_client(asked: Sequence[_Asked], exchange: Exchange, server: Server) -> str:
    *earlier, last = asked
    history = [
        turn
        for one in earlier
        for turn in ({"role": "user", "content": one.question}, {"role": "assistant", "content": one.answer})
    ]
    sampling = exchange.sampling
    values: dict[str, Any] = {setting.name: getattr(sampling, setting.name) for setting in settings_of(sampling)}
    if server.has_extras:
        values["read_text"] = exchange.extras.reads_text
        values["draw_picture"] = exchange.extras.wants_picture
    picture = f"handle_file({asked[0].pictures[0]!r})" if asked[0].pictures else "None"
    login = f', auth=("me", os.environ["{KEY_VARIABLE}"])' if server.needs_key else ""
    lines = [
        *["import os", ""] * server.needs_key,
        "from gradio_client import Client, handle_file",
        "",
        f"client = Client({server.url!r}{login})",
        "answer, regions, *_ = client.predict(",
        f"    image={picture},",
        f"    text={last.question!r},",
        *[f"    history={history!r},"] * bool(history),
        *_arguments({name: value for name, value in values.items() if value is not None}),
        '    api_name="/chat",',
        ")",
        "print(answer)",
    ]
    return "\n".join(lines) + "\n"


def _arguments(values: Mapping[str, Any]) -> list[str]:
    return [f"    {name}={value!r}," for name, value in values.items()]


def _kind(name: str) -> str:
    """The type that a picture's address says; the server looks at its bytes."""
    guessed, _ = mimetypes.guess_type(name)
    return guessed if guessed in KINDS else KINDS[0]
