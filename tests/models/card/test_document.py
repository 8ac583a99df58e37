from __future__ import annotations

from html.parser import HTMLParser

from models.card.document import Banner, Bullets, Document, Picture, Section, Table, Text, to_html, to_markdown

EVIL = "<script>alert(1)</script> | [x](javascript:alert(2)) `a` *b* <img src=x onerror=alert(3)> \" ' &"
PNG = b"\x89PNG\r\n\x1a\n not a real one"


def document(text: str) -> Document:
    return Document(text, text, (
        Section(text, (Text(text), Bullets((text,)), Table((text, "b"), ((text, text),), marked=frozenset({0})),
                       Banner(text, False), Picture(PNG, text))),
        Section("empty", (Bullets((), empty=text), Table(("a",), (), empty=text))),
    ))


class Reader(HTMLParser):
    """Tags with their attributes, and the text that is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    return reader


def test_text_that_is_markup_is_shown_and_never_run():
    seen = read(to_html(document(EVIL)))
    assert {tag for tag, _ in seen.tags} <= {
        "html", "head", "meta", "title", "style", "body", "header", "h1", "p", "nav", "ol", "li", "a", "main",
        "section", "h2", "ul", "div", "table", "thead", "tr", "th", "tbody", "td", "figure", "img", "figcaption"}
    assert not any(name.startswith("on") for _, attributes in seen.tags for name in attributes)
    assert {attributes["href"] for tag, attributes in seen.tags if tag == "a"} == {"#s0", "#s1"}
    assert seen.text.count(EVIL) >= 9


def test_a_page_asks_no_other_host_and_pictures_are_inline():
    page = to_html(document("plain"))
    seen = read(page)
    assert "http://" not in page
    assert "https://" not in page
    (picture,) = [attributes for tag, attributes in seen.tags if tag == "img"]
    assert picture["src"].startswith("data:image/png;base64,")
    assert picture["alt"] == "plain"
    (policy,) = [one["content"] for tag, one in seen.tags if tag == "meta" and "http-equiv" in one]
    assert policy.startswith("default-src 'none'; img-src data:")


def test_markdown_keeps_markup_as_text_and_a_table_keeps_its_columns():
    page = to_markdown(document(EVIL))
    assert "<script" not in page
    assert "<img" not in page
    assert "](javascript" not in page.replace("\\]", "")
    header, rule, row = next(block for block in page.split("\n\n") if block.startswith("| ")).splitlines()
    assert rule == "|---|---|"
    for line in (header, row):
        assert line.replace("\\|", "").count("|") == 3


def test_a_line_that_would_begin_a_heading_or_a_list_is_text():
    for text, written in (("# not a title", "\\# not a title"), ("- no item", "\\- no item"), ("+ 2", "\\+ 2"),
                          ("12. no item", "12\\. no item"), ("> no quote", "&gt; no quote"), ("3.5 %", "3.5 %"),
                          ("-1 and on", "-1 and on")):
        assert to_markdown(Document("t", text, ())).splitlines()[2] == written


def test_line_breaks_do_not_break_a_table():
    page = to_markdown(Document("t", "", (Section("s", (Table(("a",), (("one\ntwo",),)),)),)))
    assert "| one two |" in page


def test_what_is_empty_says_so_in_both():
    for page in (to_html(document("nothing here")), to_markdown(document("nothing here"))):
        assert page.count("nothing here") >= 10
