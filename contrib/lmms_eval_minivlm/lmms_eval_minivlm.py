"""lmms-eval (0.7) asks a running MiniVLM Chat, each task in the words that the model was trained with.

    pip install ./contrib/lmms_eval_minivlm        # in lmms-eval's environment
    lmms-eval --model minivlm --model_args base_url=http://127.0.0.1:7860/v1 --tasks refcoco_bbox_rec_val,pope

A harness words its questions for models that follow instructions. Those that MiniVLM Chat serves know a few task
identifiers instead: RefCOCO's phrase goes to `[refer]`, whose boxes (0 to 100 in the text, `regions` in the response)
become the numbers that the harness reads; short answers are asked for with `[vqa]`. A model without such a task gets
the harness's own words. Answers are greedy unless the task says otherwise.
"""

from __future__ import annotations

import base64
import io
import json
import os
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from lmms_eval.api.model import lmms
from lmms_eval.models.registry_v2 import ModelManifest

MAX_STOPS = 4  # that the server takes
SHORT_ANSWER = "Based on the image, respond to this question with a short answer: {}"  # of MiniGPT-v2's evaluation
_HINT = re.compile(
    r"\s*(answer the question using a single word or phrase\.?|"
    r"when the provided information is insufficient, respond with 'unanswerable'\.?)\s*",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class TaskWording:
    """How questions of some tasks of the harness are asked: `task` of the server, its text, and the answer read back.

    `text` is given the harness's question, `read` the response's message.
    """

    tasks: str  # a pattern for names
    task: str
    text: Callable[[str], str]
    read: Callable[[dict[str, Any]], str]


def normalised_box(message: dict[str, Any]) -> str:
    """The first box as `[x0, y0, x1, y1]` from 0 to 1; of an answer without boxes its text."""
    regions = message.get("regions")
    return str([round(edge, 4) for edge in regions[0]["bbox"]]) if regions else str(message["content"])


def pixel_boxes(message: dict[str, Any]) -> str:
    """All boxes as JSON in pixels; of an answer without boxes its text."""
    regions = message.get("regions")
    return json.dumps([{"bbox_2d": one["bbox_px"]} for one in regions]) if regions else str(message["content"])


def after_colon(question: str) -> str:
    """The phrase of RefCOCO's `bbox_rec` tasks, which stands at the end."""
    return question.rpartition("this sentence describes:")[2].strip()


def first_quoted(question: str) -> str:
    """The phrase of the `grounding` tasks, which may give several for one object."""
    found = re.search(r'"([^"]*)"', question)
    return found[1].strip() if found else question


def short_question(question: str) -> str:
    """A question for a short answer, without the harness's own wish for one."""
    return SHORT_ANSWER.format(_HINT.sub(" ", question).strip())


def plain_text(message: dict[str, Any]) -> str:
    """The answer as it is."""
    return str(message["content"])


WORDINGS = (
    TaskWording(r"refcoco[+g]?_bbox_rec", "refer", after_colon, normalised_box),
    TaskWording(r"refcoco(g|_plus)?_grounding", "refer", first_quoted, pixel_boxes),
    TaskWording(r"(vqav2|gqa|ok_?vqa|vizwiz_vqa|textvqa|iconqa)", "vqa", short_question, plain_text),
    TaskWording(r"(pope|mme$)", "vqa", str.strip, plain_text),
)


class MiniVLM(lmms):
    """A model of the server at `base_url`; `model` is its name in `/v1/models`, by default the first.

    `num_concurrent` questions are asked at once. The key is `api_key`, or the variable MINIVLM_API_KEY.
    """

    is_simple = True

    def __init__(
        self,
        base_url: str = "http://127.0.0.1:7860/v1",
        model: str | None = None,
        api_key: str | None = None,
        num_concurrent: int = 8,
        timeout: float = 600,
        batch_size: int = 1,
        **_others: Any,  # device and such, which the harness gives every model
    ) -> None:
        super().__init__()
        self._base_url = base_url.rstrip("/")
        self._key = api_key or os.environ.get("MINIVLM_API_KEY")
        self._timeout = float(timeout)
        self._num_concurrent = int(num_concurrent)
        self.batch_size_per_gpu = int(batch_size)
        listed = self._ask("/models", None)["data"]
        entry = next((one for one in listed if model in (None, one["id"])), None)
        if entry is None:
            raise ValueError(f"{base_url} has no model {model!r}; it has {', '.join(one['id'] for one in listed)}.")
        self._model = entry["id"]
        self._tasks = set(entry.get("tasks", ()))

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """The answers, in the order of the requests."""
        with ThreadPoolExecutor(self._num_concurrent) as pool:
            return list(pool.map(self._answer, requests))

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Not supported."""
        raise NotImplementedError("Tasks of several rounds are not supported; use --model openai for them.")

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Not supported: the server gives no probabilities."""
        raise NotImplementedError("Tasks that compare likelihoods are not supported: /v1 gives no probabilities.")

    def _answer(self, request: Any) -> str:
        question, settings, doc_to_visual, doc_id, task, split = request.args
        pictures = doc_to_visual(self.task_dict[task][split][doc_id])
        wording = self._wording(task)
        text = question.replace("<image>", "").strip() if wording is None else wording.text(question)
        parts: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": _data_uri(one)}} for one in pictures]
        body: dict[str, Any] = {
            "model": self._model,
            "messages": [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}],
            "temperature": float(settings.get("temperature") or 0),
        }
        if wording is not None:
            body["task"] = wording.task
        if settings.get("max_new_tokens"):
            body["max_completion_tokens"] = int(settings["max_new_tokens"])
        until = settings.get("until") or []
        if stops := [stop for stop in ([until] if isinstance(until, str) else until) if stop.strip()]:
            body["stop"] = stops[:MAX_STOPS]
        message = self._ask("/chat/completions", body)["choices"][0]["message"]
        return plain_text(message) if wording is None else wording.read(message)

    def _wording(self, task: str) -> TaskWording | None:
        """Of the first that fits the harness's task, if the model knows the server's."""
        found = next((one for one in WORDINGS if re.match(one.tasks, task)), None)
        return found if found is not None and found.task in self._tasks else None

    def _ask(self, path: str, body: dict[str, Any] | None) -> Any:
        """The server's response. Raises RuntimeError with its own words for an error."""
        headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {self._key}"} if self._key else {})
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self._base_url}{path}", data, headers)
        try:
            with urllib.request.urlopen(request, timeout=self._timeout) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            said = error.read(2000).decode("utf-8", "replace")
            raise RuntimeError(f"{self._base_url}{path} answered {error.code}: {said}") from error


def _data_uri(picture: Any) -> str:
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


manifest = ModelManifest(model_id="minivlm", simple_class_path="lmms_eval_minivlm.MiniVLM")
