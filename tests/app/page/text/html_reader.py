"""Reads an HTML fragment as a browser would and says what is in it; raises where it is not well-formed."""

from __future__ import annotations

from html.parser import HTMLParser

VOID = frozenset(("hr", "image", "use"))
TAGS = frozenset(
    (
        *("button", "span", "code", "p", "h3", "h4", "h5", "h6", "ul", "ol", "li", "blockquote", "hr", "div", "pre"),
        *("table", "thead", "tbody", "tr", "th", "td", "em", "strong", "s", "a"),
        *("math", "mrow", "mi", "mn", "mo", "mtext", "mspace", "mfrac", "msqrt", "mroot", "msub", "msup", "msubsup"),
        *("munder", "mover", "munderover", "mtable", "mtr", "mtd", "mstyle", "mpadded", "mphantom", "menclose"),
    )
)
ATTRIBUTES = frozenset(
    (
        *("type", "class", "dir", "title", "style", "role", "tabindex", "href", "target", "rel", "start"),
        *("data-entity", "data-copy", "aria-pressed", "aria-label", "aria-hidden"),
        *("display", "mathvariant", "stretchy", "fence", "separator", "form", "lspace", "rspace", "accent", "width"),
        *("accentunder", "movablelimits", "largeop", "symmetric", "minsize", "maxsize", "linethickness", "height"),
        *("columnalign", "rowspacing", "columnspacing", "rowlines", "columnlines", "depth", "voffset", "displaystyle"),
        *("scriptlevel", "notation", "mathsize", "mathcolor"),
    )
)


class Reader(HTMLParser):
    """The text, the tags and the attributes of a fragment."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text = ""
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()
        if self.open:
            raise ValueError(f"{self.open} are not closed in {html!r}")

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            raise ValueError(f"</{tag}> closes nothing")

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_comment(self, data: str) -> None:
        raise ValueError("a comment")

    def handle_decl(self, decl: str) -> None:
        raise ValueError("a declaration")

    def handle_pi(self, data: str) -> None:
        raise ValueError("an instruction")

    def unknown_decl(self, data: str) -> None:
        raise ValueError("an unknown declaration")

    def check_allowed(self) -> None:
        """Raise for anything that the page does not write itself, and for what asks a host or runs something."""
        assert set(self.tags) <= TAGS
        for name, value in self.attributes:
            assert name in ATTRIBUTES, name
            if name == "href":
                assert value.lower().startswith(("http:", "https:", "mailto:")), value
            if name == "style":
                assert value.startswith("--mv-colour:#"), value
                assert len(value) < 40
