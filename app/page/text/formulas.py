r"""LaTeX in answers: `$…$`, `$$…$$`, `\(…\)` and `\[…\]` as MathML, which browsers draw without any script or font.

latex2mathml (an extra) makes the MathML. It escapes nothing inside of `\text` and passes `\href` and `\style` on, so of
what it makes only elements and attributes that are listed here are taken over. Without it, or where it fails, the
formula is shown as it was written.
"""

from __future__ import annotations

import re
from functools import lru_cache
from html import escape, unescape
from xml.etree import ElementTree

from markdown_it import MarkdownIt
from markdown_it.rules_block import StateBlock
from markdown_it.rules_inline import StateInline

from app.page.text.placeholders import LESS, MORE, has_placeholder

MAX_CHARACTERS = 2000  # of one formula
MAX_DEPTH = 40  # of its braces

_NAMESPACE = "{http://www.w3.org/1998/Math/MathML}"
_ELEMENTS = frozenset(
    re.findall(
        r"\w+",
        """math mrow mi mn mo ms mtext mspace mfrac msqrt mroot msub msup msubsup munder mover munderover mmultiscripts
        mprescripts none mtable mtr mtd mstyle mpadded mphantom menclose""",
    )
)
_ATTRIBUTES = frozenset(
    re.findall(
        r"\w+",
        """display mathvariant stretchy fence separator form lspace rspace accent accentunder movablelimits largeop
        symmetric minsize maxsize linethickness columnalign rowspacing columnspacing rowlines columnlines width height
        depth voffset displaystyle scriptlevel notation mathsize mathcolor""",
    )
)
_PAIRS = (("$$", "$$", True), ("\\[", "\\]", True), ("\\(", "\\)", False), ("$", "$", False))
# A price is no formula: between single dollars there must be something that only a formula has, or one letter.
_IS_FORMULA = re.compile(r"[\\^_={}+<>|]|\A[A-Za-z]'?\Z")


def add_formulas(markdown: MarkdownIt) -> None:
    """Teach a parser formulas: tokens `formula` with the LaTeX as content, the source as info, `display` in meta."""
    markdown.block.ruler.before("fence", "formula", _block_rule, {"alt": ["paragraph", "blockquote", "list"]})
    markdown.inline.ruler.before("escape", "formula", _inline_rule)


def _inline_rule(state: StateInline, silent: bool) -> bool:
    source = state.src
    for opening, closing, display in _PAIRS:
        if not source.startswith(opening, state.pos):
            continue
        start = state.pos + len(opening)
        end = source.find(closing, start, start + MAX_CHARACTERS + len(closing))
        latex = source[start:end]
        if end < 0 or not latex.strip() or has_placeholder(latex):
            return False
        end += len(closing)
        if opening == "$" and not _is_formula(latex, source[end : end + 1]):
            return False
        if not silent:
            token = state.push("formula", "", 0)
            token.content, token.info, token.meta = latex.strip(), source[state.pos : end], {"display": display}
        state.pos = end
        return True
    return False


def _is_formula(latex: str, following: str) -> bool:
    return (
        not latex[0].isspace()
        and not latex[-1].isspace()
        and "\n\n" not in latex
        and not following.isdigit()
        and _IS_FORMULA.search(latex) is not None
    )


def _block_rule(state: StateBlock, start_line: int, end_line: int, silent: bool) -> bool:
    """Lines from one that begins with `$$` or `\\[` to one that ends with its counterpart."""
    first = state.src[state.bMarks[start_line] + state.tShift[start_line] : state.eMarks[start_line]]
    closing = {"$$": "$$", "\\[": "\\]"}.get(first[:2])
    if closing is None or state.is_code_block(start_line):
        return False
    # Another line that begins a formula before the one that ended the search would search the same lines in vain.
    where, failed = (closing, end_line, state.blkIndent, state.level), state.env.setdefault("no_formula_before", {})
    if start_line < failed.get(where, 0):
        return False
    line, rest, is_closed = start_line, first[2:].rstrip(), False
    lines: list[str] = []
    while True:
        if rest.endswith(closing):
            lines.append(rest[: -len(closing)])
            is_closed = True
            break
        if closing in rest or has_placeholder(rest):
            failed[where] = line  # text goes on behind the formula, so it is inline; or there is a phrase in it
            return False
        lines.append(rest)
        line += 1
        if line >= end_line or state.sCount[line] < state.blkIndent:
            break
        rest = state.src[state.bMarks[line] + state.tShift[line] : state.eMarks[line]].rstrip()
    latex = "\n".join(lines).strip()
    if not (is_closed or state.env.get("unfinished")):
        failed[where] = line
        return False
    if not latex or has_placeholder(latex):
        return False
    if silent:
        return True
    token = state.push("formula", "", 0)
    source = f"{first[:2]}\n{latex}" + (f"\n{closing}" if is_closed else "")
    token.content, token.info, token.meta = latex if is_closed else "", source, {"display": True}
    state.line = line + 1 if is_closed else line
    token.map = [start_line, state.line]
    return True


def formula_html(latex: str, source: str, *, display: bool) -> str:
    """A formula; `source` is how it was written, delimiters included, and what is shown if there is no MathML of it."""
    mathml = _mathml(latex, display=display) if latex else None
    if mathml is None:
        return f'<code class="mv-formula" dir="ltr">{escape(source)}</code>'
    shape = "mv-formula mv-display" if display else "mv-formula"
    return f'<span class="{shape}" dir="ltr" title="{escape(source)}">{mathml}</span>'


@lru_cache(maxsize=512)
def _mathml(latex: str, *, display: bool) -> str | None:
    """MathML of nothing but listed elements and attributes, or None if there is none."""
    if len(latex) > MAX_CHARACTERS or not _is_nested_well(latex):
        return None
    try:
        from latex2mathml.converter import convert
    except ImportError:
        return None
    try:
        made = convert(latex.replace("<", LESS).replace(">", MORE), display="block" if display else "inline")
        return _allowed(ElementTree.fromstring(made))
    except Exception:  # whatever a library makes of a text that need not be LaTeX
        return None


def _is_nested_well(latex: str) -> bool:
    """Whether braces and environments are closed, and not too deep: the library calls itself for each level."""
    depth = 0
    for mark in re.findall(r"\\[{}]|[{}]|\\begin\b|\\end\b|\\left\b|\\right\b", latex):
        depth += {"{": 1, "\\begin": 1, "\\left": 1, "}": -1, "\\end": -1, "\\right": -1}.get(mark, 0)
        if not 0 <= depth <= MAX_DEPTH:
            return False
    return depth == 0


def _allowed(element: ElementTree.Element) -> str:
    """An element as HTML. Raises ValueError for one that is not listed; attributes that are not listed are left out."""
    name = element.tag.removeprefix(_NAMESPACE)
    if name not in _ELEMENTS:
        raise ValueError(f"<{name}> is not allowed")
    text = _text(element.text)
    if name == "mi" and text in ("&lt;", "&gt;"):
        name = "mo"
    attributes = "".join(
        f' {key}="{_text(value)}"' for key, value in element.attrib.items() if key in _ATTRIBUTES and "url" not in value
    )
    inner = "".join(_allowed(child) + _text(child.tail) for child in element)
    return f"<{name}{attributes}>{text}{inner}</{name}>"


def _text(text: str | None) -> str:
    return escape(unescape(text or "").replace(LESS, "<").replace(MORE, ">"))
