"""YAML as plain values, within limits: a small file can describe very much, or be nested deeper than Python can follow.

The one place where YAML is read. Whatever PyYAML raises for odd values (dates that do not exist, `!!int x`, numbers of
5,000 digits) becomes one kind of error.
"""

from __future__ import annotations

from typing import Any

import yaml

MAX_CHARACTERS = 1_000_000
MAX_DEPTH = 32
MAX_DIGITS = 300  # 1:1:1… is a number in base 60, whose value takes the square of its length to find
MAX_VALUES = 20_000  # with those that aliases repeat


class NotYaml(ValueError):
    """The text can't be used. `line` counts from 1, and is None where no line is to blame."""

    def __init__(self, problem: str, line: int | None = None) -> None:
        super().__init__(problem)
        self.problem = problem
        self.line = line


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which notices too much depth before it follows it, and too many values before it builds."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """As yaml.composer's."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise NotYaml(f"nested more than {MAX_DEPTH} deep", self._line())
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_scalar(self, node: Any) -> Any:
        """As yaml.constructor's."""
        text = super().construct_scalar(node)
        if node.tag.endswith((":int", ":float")) and len(text) > MAX_DIGITS:
            raise NotYaml(f"a number of {len(text)} characters", node.start_mark.line + 1)
        text.encode("utf-8")  # half characters (surrogates) can be written with escapes, and shown nowhere
        return text

    def get_single_node(self) -> yaml.Node | None:
        """As yaml.composer's."""
        node = super().get_single_node()
        if node is not None and _num_values(node, {}) > MAX_VALUES:
            raise NotYaml(f"more than {MAX_VALUES} values, with those that aliases repeat")
        return node

    def _line(self) -> int:
        return int(self.get_mark().line) + 1


def _num_values(node: yaml.Node, known: dict[int, int]) -> int:
    """How many values the node stands for; `known` has those that were counted, 0 while that is under way."""
    if id(node) in known:
        if not known[id(node)]:
            raise NotYaml("an alias repeats what it is part of", node.start_mark.line + 1)
        return known[id(node)]
    known[id(node)] = 0
    parts = node.value if isinstance(node, yaml.CollectionNode) else []
    if isinstance(node, yaml.MappingNode):
        parts = [one for pair in node.value for one in pair]
    known[id(node)] = 1 + sum(_num_values(part, known) for part in parts)
    return known[id(node)]


def parse_yaml(text: str) -> Any:
    """The value that the text describes. Raises NotYaml for everything that can't be used."""
    if len(text) > MAX_CHARACTERS:
        raise NotYaml(f"longer than {MAX_CHARACTERS:,} characters")
    try:
        return yaml.load(text, Loader=_Loader)  # a safe loader
    except NotYaml:
        raise
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = str(getattr(error, "problem", None) or "unreadable")
        raise NotYaml(problem, None if mark is None else mark.line + 1) from error
    except Exception as error:  # PyYAML gives texts to int(), date() and others as they are
        raise NotYaml(f"a value is none of its kind: {str(error)[:200]}") from error
