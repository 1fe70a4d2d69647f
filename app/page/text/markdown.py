"""Markdown of an answer -> HTML, by a list of what is allowed.

markdown-it-py parses; what it finds becomes HTML here, so that there is no element or attribute that this file does
not write, and whatever is not known here stays text. Raw HTML, pictures, reference definitions, indented code and
underlined headings are not parsed at all: models mean none of them, and a picture would ask another host for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from html import escape
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from markdown_it import MarkdownIt
from markdown_it.rules_block import StateBlock
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token

from app.page.text.cuts import cut, cut_rows, joined
from app.page.text.formulas import add_formulas, formula_html
from app.page.text.placeholders import CARET, as_source, has_placeholder
from app.page.text.unfinished import MAX_OPEN, open_ticks, with_table_rule, without_half_written_marks

MAX_CHARACTERS = 50_000  # a longer text is shown as it is
MAX_CELLS = 4000  # of a table; a hostile one has far more cells than characters
SCHEMES = ("http", "https", "mailto")

_NOT_PARSED = ("image", "reference", "lheading", "code", "entity", "html_block", "html_inline")
_PLAIN = frozenset(("paragraph_open", "paragraph_close", "inline", "text", "softbreak"))
_TAGS = {
    "bullet_list": "ul",
    "list_item": "li",
    "blockquote": "blockquote",
    "thead": "thead",
    "tbody": "tbody",
    "tr": "tr",
    "em": "em",
    "strong": "strong",
    "s": "s",
}
_WITH_DIRECTION = frozenset(("ul", "li", "blockquote"))  # each takes its base direction from its own text
_ALIGNMENTS = {"text-align:center": ' class="mv-centre"', "text-align:right": ' class="mv-right"'}


def markdown_html(source: str, *, unfinished: bool = False) -> str | None:
    """HTML of a Markdown text, with its placeholders; None if it is nothing but lines of text, or nothing but marks.

    In an `unfinished` text, emphasis, code and tables that have begun at its end are shown as such; CARET stands where
    it ends.
    """
    if len(source) > MAX_CHARACTERS:
        return None
    *finished, last = cut(source)
    blocks = [*map(_finished, finished), _block(last, unfinished=unfinished)]
    if all(block.is_plain for block in blocks) or not any(block.has_content for block in blocks):
        return None
    return "".join(block.html for block in blocks)


class _Block(NamedTuple):
    """A part of the text that is parsed for itself."""

    html: str
    is_plain: bool  # nothing but lines
    has_content: bool  # more than marks


@lru_cache(maxsize=512)
def _finished(source: str) -> _Block:
    """Of an answer that grows only the last block is new; all others have been seen before."""
    return _block(source)


def _block(source: str, *, unfinished: bool = False) -> _Block:
    *finished, last = cut_rows(source)
    if finished and (source.count("\n") + 1) * (source.partition("\n")[0].count("|") + 1) <= MAX_CELLS:
        rows = [*map(_parsed, finished), _parse(last, unfinished=unfinished)]
        html = joined([one.html for one in rows])
        if html is not None:
            return _Block(html, is_plain=False, has_content=any(one.has_content for one in rows))
    return _parse(source, unfinished=unfinished)


@lru_cache(maxsize=512)
def _parsed(source: str) -> _Block:
    return _parse(source)


def _parse(source: str, *, unfinished: bool = False) -> _Block:
    tokens = _PARSER.parse(with_table_rule(source) if unfinished else source, {"unfinished": unfinished})
    last = _last_inline(tokens) if unfinished else None
    html = []
    is_plain = True
    for token in tokens:
        if token.type == "inline":
            inline = _completed(token.content) if token is last else _inline(token.content)
            html.append(inline.html + CARET if token is last else inline.html)
            is_plain = is_plain and inline.is_plain
        else:
            html.append(_BLOCKS.get(token.type, _tag_html)(token))
            is_plain = is_plain and token.type in _PLAIN
    if unfinished and last is None:
        html.append(CARET)
    has_content = any(token.content.strip() or token.type == "formula" for token in tokens)
    return _Block("".join(html), is_plain, has_content)


def _last_inline(tokens: Sequence[Token]) -> Token | None:
    """The text that the last block ends with; None if it ends with code, a formula or a line."""
    last = next((token for token in reversed(tokens) if token.nesting == 0), None)
    return last if last is not None and last.type == "inline" else None


class _Inline(NamedTuple):
    """The text of a paragraph, an item or a cell."""

    html: str
    is_plain: bool  # nothing but lines
    is_open: str  # what would close the emphasis that is still open near the end


def _completed(content: str) -> _Inline:
    """A text that is being written, with what has begun in it closed."""
    completed = without_half_written_marks(content)
    completed += open_ticks(completed)
    inline = _inline(completed)
    if inline.is_open:
        inline = _inline(completed + inline.is_open)
    return inline._replace(is_plain=inline.is_plain and completed == content)


@lru_cache(maxsize=1024)
def _inline(content: str) -> _Inline:
    """Of an answer that grows only the last paragraph is new; all others have been seen before."""
    children: list[Token] = []
    env: dict[str, Any] = {}
    _PARSER.inline.parse(content, _PARSER, env, children)
    html, _ = _children_html(children, 0)
    return _Inline(html, all(child.type in _PLAIN for child in children), env["open"])


def _note_open(state: StateInline) -> None:
    """Writes down what is still open: a rule of the parser that runs once pairs have been found."""
    first, length = len(state.tokens), 0
    while first > 0 and length + len(state.tokens[first - 1].content) <= MAX_OPEN:
        first -= 1
        length += len(state.tokens[first].content)
    is_open = [one for one in state.delimiters if one.open and one.end < 0 and one.token >= first]
    closing = {ord("*"): "*", ord("_"): "_", ord("~"): "~~"}
    state.env["open"] = "".join(closing[one.marker] for one in reversed(is_open))


def _children_html(children: Sequence[Token], start: int, until: str = "") -> tuple[str, int]:
    """The HTML of tokens up to the one of type `until`, and the index of that."""
    html = []
    index = start
    while index < len(children) and children[index].type != until:
        token = children[index]
        if token.type == "link_open":
            inner, index = _children_html(children, index + 1, "link_close")
            html.append(_link_html(inner, str(token.attrs.get("href", "")), is_bare=token.info == "auto"))
        else:
            html.append(_INLINE.get(token.type, _tag_html)(token))
        index += 1
    return "".join(html), index


def _link_html(inner: str, address: str, *, is_bare: bool) -> str:
    """A link that says where it leads. A phrase in it keeps its button, for which the link then makes way."""
    shown = "" if is_bare else f' <span class="mv-address">({escape(address)})</span>'
    if has_placeholder(inner) or has_placeholder(address):
        return inner + shown
    return f'<a href="{escape(address)}" target="_blank" rel="noopener noreferrer nofollow">{inner}</a>{shown}'


def _tag_html(token: Token) -> str:
    name, _, end = token.type.rpartition("_")
    tag = _TAGS.get(name)
    if tag is None or token.nesting == 0:
        return escape(token.content)
    direction = ' dir="auto"' if tag in _WITH_DIRECTION and end == "open" else ""
    return f"<{'/' if end == 'close' else ''}{tag}{direction}>"


def _paragraph(token: Token) -> str:
    if token.hidden:
        return ""
    return '<p dir="auto">' if token.nesting == 1 else "</p>"


def _heading(token: Token) -> str:
    level = min(int(token.tag[1:]) + 2, 6)  # below the page's own headings
    return f'<h{level} dir="auto">' if token.nesting == 1 else f"</h{level}>"


def _ordered_list(token: Token) -> str:
    start = f' start="{int(token.attrs["start"])}"' if "start" in token.attrs else ""
    return f'<ol dir="auto"{start}>' if token.nesting == 1 else "</ol>"


def _table(token: Token) -> str:
    if token.nesting == 1:
        return '<div class="mv-table" role="region" aria-label="Table" tabindex="0"><table>'
    return "</table></div>"


def _cell(token: Token) -> str:
    tag = token.type[:2]
    if token.nesting == -1:
        return f"</{tag}>"
    return f'<{tag} dir="auto"{_ALIGNMENTS.get(str(token.attrs.get("style", "")), "")}>'


def _code_block(token: Token) -> str:
    code = token.content.removesuffix("\n")
    language = escape(as_source(token.info.split()[0][:40])) if token.info.split() else ""
    return (
        f'<div class="mv-code" dir="ltr"><div class="mv-code-head"><span>{language}</span>'
        f'<button type="button" class="mv-action" data-copy="{escape(as_source(code))}" title="Copy the code" '
        f'aria-label="Copy the code">Copy</button></div><pre tabindex="0" aria-label="Code"><code>{escape(code)}'
        "</code></pre></div>"
    )


def _formula(token: Token) -> str:
    return formula_html(token.content, token.info, display=token.meta["display"])


_BLOCKS: dict[str, Callable[[Token], str]] = {
    "paragraph_open": _paragraph,
    "paragraph_close": _paragraph,
    "heading_open": _heading,
    "heading_close": _heading,
    "ordered_list_open": _ordered_list,
    "ordered_list_close": _ordered_list,
    "table_open": _table,
    "table_close": _table,
    "th_open": _cell,
    "th_close": _cell,
    "td_open": _cell,
    "td_close": _cell,
    "fence": _code_block,
    "formula": _formula,
    "hr": lambda _: "<hr>",
}
_INLINE: dict[str, Callable[[Token], str]] = {
    "softbreak": lambda _: "\n",
    "hardbreak": lambda _: "\n",
    "code_inline": lambda token: f'<code dir="ltr">{escape(token.content)}</code>',
    "formula": _formula,
}


def _is_allowed(address: str) -> bool:
    try:
        return urlsplit(address).scheme.lower() in SCHEMES
    except ValueError:
        return False


def _make_parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"]).disable(_NOT_PARSED)
    parser.core.ruler.disable(["inline", "text_join"])  # `_inline` does it, for texts that it has not seen before
    parser.validateLink = _is_allowed  # type: ignore[method-assign, assignment]
    add_formulas(parser)
    table = next(rule for rule in parser.block.ruler.__rules__ if rule.name == "table").fn

    def bounded_table(state: StateBlock, start_line: int, end_line: int, silent: bool) -> bool:
        header = state.src[state.bMarks[start_line] : state.eMarks[start_line]]
        num_cells = (header.count("|") + 1) * (end_line - start_line)
        return num_cells <= MAX_CELLS and bool(table(state, start_line, end_line, silent))

    parser.block.ruler.at("table", bounded_table, {"alt": ["paragraph", "reference"]})
    parser.inline.ruler2.after("balance_pairs", "open", _note_open)
    return parser


_PARSER = _make_parser()
