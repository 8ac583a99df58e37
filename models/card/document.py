"""A document of sections, written as one HTML page or one Markdown file; both open without a network.

Everything that is written comes through `_html` or `_markdown`, which escape it: a value from the data, a plan
called `<script>`, is shown, never run.
"""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

from models.card.document_style import STYLE

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Bullets:
    """A list; `empty` stands where it has no item."""

    items: tuple[str, ...]
    empty: str = "None."


@dataclass(frozen=True)
class Table:
    """A table of text; `marked` names rows that need a look."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    marked: frozenset[int] = frozenset()
    empty: str = "Nothing was recorded."


@dataclass(frozen=True)
class Picture:
    """A PNG, and what it shows in words."""

    png: bytes
    says: str


@dataclass(frozen=True)
class Banner:
    """The one line a reader takes away; `good` None is neither."""

    text: str
    good: bool | None


Block = Text | Bullets | Table | Picture | Banner


@dataclass(frozen=True)
class Section:
    """Blocks under a title."""

    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Document:
    """A title, a line below it, and sections."""

    title: str
    lead: str
    sections: tuple[Section, ...]


def to_html(document: Document) -> str:
    """One page; pictures inline, no script, nothing from another host."""
    links = "".join(f'<li><a href="#s{number}">{_html(section.title)}</a></li>'
                    for number, section in enumerate(document.sections))
    body = "\n".join(
        f'<section id="s{number}"><h2>{_html(section.title)}</h2>\n'
        f'{_html_blocks(section.blocks)}</section>'
        for number, section in enumerate(document.sections))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{_html(document.title)}</title>
<style>{STYLE}</style>
</head>
<body>
<header><h1>{_html(document.title)}</h1><p>{_html(document.lead)}</p></header>
<nav aria-label="sections"><ol>{links}</ol></nav>
<main>
{body}
</main>
</body>
</html>
"""


def to_markdown(document: Document) -> str:
    """The same as Markdown; pictures are data URIs."""
    parts = [f"# {_markdown(document.title)}", _markdown(document.lead)]
    for section in document.sections:
        parts.append(f"## {_markdown(section.title)}")
        parts += [markdown_block(block) for block in section.blocks]
    return "\n\n".join(parts) + "\n"


def markdown_block(block: Block) -> str:
    """One block as Markdown."""
    match block:
        case Text():
            return _markdown(block.text)
        case Banner():
            return f"> **{_markdown(block.text)}**"
        case Bullets():
            return "\n".join(f"- {_markdown(item)}" for item in block.items) or _markdown(block.empty)
        case Picture():
            return f"![{_markdown(block.says)}]({_data_uri(block.png)})"
        case Table():
            if not block.rows:
                return _markdown(block.empty)
            return "\n".join(_markdown_rows(block))


def _html_blocks(blocks: tuple[Block, ...]) -> str:
    """Pictures that follow each other stand side by side."""
    parts = []
    for picture, group in groupby(blocks, lambda block: isinstance(block, Picture)):
        inner = "".join(map(_html_block, group))
        parts.append(f'<div class="pictures">\n{inner}</div>\n' if picture else inner)
    return "".join(parts)


def _html_block(block: Block) -> str:
    match block:
        case Text():
            return f"<p>{_html(block.text)}</p>\n"
        case Banner():
            kind = "plain" if block.good is None else "good" if block.good else "bad"
            return f'<p class="banner {kind}">{_html(block.text)}</p>\n'
        case Bullets():
            items = "".join(f"<li>{_html(item)}</li>" for item in block.items)
            return f"<ul>{items}</ul>\n" if items else f"<p>{_html(block.empty)}</p>\n"
        case Picture():
            return (f'<figure><img src="{_data_uri(block.png)}" alt="{_html(block.says)}">'
                    f"<figcaption>{_html(block.says)}</figcaption></figure>\n")
        case Table():
            return _html_table(block) if block.rows else f"<p>{_html(block.empty)}</p>\n"


def _html_table(table: Table) -> str:
    head = "".join(f'<th scope="col">{_html(cell)}</th>' for cell in table.header)
    rows = []
    for number, row in enumerate(table.rows):
        mark = ' class="marked"' if number in table.marked else ""
        first, *others = (_html(cell) for cell in row)
        rows.append(f'<tr{mark}><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in others)}</tr>')
    return (f'<div class="wide"><table><thead><tr>{head}</tr></thead>\n<tbody>\n' + "\n".join(rows)
            + "\n</tbody></table></div>\n")


def _markdown_rows(table: Table) -> Iterator[str]:
    yield f"| {' | '.join(map(_markdown, table.header))} |"
    yield f"|{'---|' * len(table.header)}"
    for number, row in enumerate(table.rows):
        cells = [_markdown(cell) for cell in row]
        yield f"| {' | '.join([f'**{cells[0]}**', *cells[1:]] if number in table.marked else cells)} |"


def _data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _html(text: str) -> str:
    return html.escape(text)


def _markdown(text: str) -> str:
    """Text as text: what would be markup, a cell border, a link or HTML is escaped; one line."""
    flat = " ".join(text.split())
    escaped = re.sub(r"([\\`*_\[\]|~])", r"\\\1", html.escape(flat, quote=False))
    return re.sub(r"^(\d*)(#+|[-+]|(?<=\d)[.)])(?=\s)", r"\1\\\2", escaped)
