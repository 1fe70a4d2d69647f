"""Pieces of which answers are made up that mean something to Markdown, formulas or boxes, and some that do not."""

from __future__ import annotations

TOKENS = (
    *("a ", "dog", " and ", "\n", "\n\n", "- ", "1. ", "| a | b |\n", "|-|-|\n", "| ", " |\n", "```\n", "`", "**", "*"),
    *("<p>", "</p>", " {<1><2><30><40>}", "{<5><6><70><80>}", "<delim>", "{<1><2>", "<30><40>}", "<p>a dog</p> ", "<"),
    *("<p>cat</p> {<9><9><20><20>}", "[x](", "http://e.org/", ")", "$x^2$", "$$", "# ", "> ", "\ufdda", "\ufddd", "&"),
)
