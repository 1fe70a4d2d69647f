"""How much of what the model can read a conversation takes, and the way out of one that has become long."""

from __future__ import annotations

from app.chat.exchange import Exchange

LONG_SHARE = 0.6  # of the context: from here on the oldest turns will soon be left out
LONG_TURNS = 10  # small models lose the thread about here, however short the turns are


def context_html(exchange: Exchange, num_turns: int, context_tokens: int, *, has_picture: bool) -> str:
    """The line under the last answer: a meter, and, once the conversation is long, the offer of a new one.

    `num_turns`: questions so far; `context_tokens`: the most that the model reads, its answer included. Nothing while
    the answer is written.
    """
    answer = exchange.answer
    used = answer.num_prompt_tokens + answer.num_new_tokens if answer else 0
    if answer is None or exchange.is_running or not used:
        return ""
    share = min(1.0, used / context_tokens)
    words = f"{used:,} of the {context_tokens:,} tokens that the model can read"
    meter = (
        f'<span class="mv-context" title="{words}">Context <meter min="0" max="1" high="{LONG_SHARE}" '
        f'value="{share:.3f}" aria-label="Context: {words}"></meter> {share:.0%}</span>'
    )
    offer = ""
    if share >= LONG_SHARE or num_turns >= LONG_TURNS or answer.dropped_turns:
        label = "New chat with this picture" if has_picture else "New chat"
        offer = (
            "<span>This chat is getting long: answers may lose the thread.</span>"
            f'<button type="button" class="mv-action" data-action="new_with_picture">{label}</button>'
        )
    return f'<div class="mv-context-line">{meter}{offer}</div>'
