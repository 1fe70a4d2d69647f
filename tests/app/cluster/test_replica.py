"""A replica loads what one process would, by the options of the same names. It needs no Ray itself."""

from __future__ import annotations

from app.chat.exchange import Question, usual_extras
from app.cluster.__main__ import arguments
from app.cluster.replica import Replica
from app.library.engine_loader import LoadingOptions
from engine.asker import Asker
from models.conversation import Answer, Sampling
from tests.paths import ROOT
from tests.waiting import in_a_loop

CONFIG = ROOT / "eval_configs" / "tiny_mini_gemini.yaml"


def test_extras_are_there() -> None:
    """Asked to draw, it says why there is no picture: a model without its extras would only answer."""
    args = arguments(["--cfg-path", str(CONFIG), "--gen", "--options", "trained_with_extras=true", "--max-chats", "1"])
    assert args.options == ["trained_with_extras=true", "max_chats=1", "generate=true"]
    replica = Replica(str(CONFIG), LoadingOptions(device="cpu", overrides=args.options))

    async def last() -> Answer:
        info = (await replica.facts()).info
        question = Question("user", "Hello", (), usual_extras(info))
        answers = [one async for one in replica.answer([question], Sampling(temperature=0, max_new_tokens=2), Asker())]
        return answers[-1]

    assert any("picture" in notice for notice in in_a_loop(last()).notices)
