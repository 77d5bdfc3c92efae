"""docs/results.md: its numbers are on the pages that it links beside them."""

import re
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"
NUMBER = re.compile(r"(?<![\w.^])\d{1,3}(?:[ ,]\d{3})+(?!\d)|(?<![\w.])\d+(?:\.\d+)?(?:e[+-]?\d+)?")
LINK = re.compile(r"\]\(([^)#]+)[^)]*\)")


def numbers_of(text):
    """Numbers of a text, with their thousands as 1 000 or 1,000."""
    return {float(re.sub("[ ,]", "", n)) for n in NUMBER.findall(text)}


def parts_of(text):
    """Paragraphs, items of lists and rows of tables, with the pages that they link.

    A row without a link has those of the paragraph before its table.
    """
    before = []
    for block in re.split(r"\n{2,}", text):
        is_table = block.startswith("|")
        parts = block.splitlines()[2:] if is_table else re.split(r"\n(?=- )", block)
        for part in parts:
            pages = LINK.findall(part)
            yield LINK.sub("]", part), pages or (before if is_table else [])
        if not is_table and not block.startswith("<!--"):
            before = LINK.findall(block)


def missing(text):
    """Numbers that are not on the linked pages."""
    for part, pages in parts_of(text):
        known = {n for page in pages for n in numbers_of((DOCS / page).read_text())}
        yield from ((n, part) for n in numbers_of(part) - known)


def test_every_number_is_on_a_linked_page():
    text = (DOCS / "results.md").read_text().replace("arXiv 2606.09419", "arXiv")
    assert list(missing(text)) == []


def test_a_number_from_nowhere_is_noticed():
    page = "benchmarks/stream.md"
    assert list(missing(f"At 11 770 patches/s ([stream]({page})).")) == []
    assert [n for n, _ in missing(f"At 11 771 patches/s ([stream]({page})).")] == [11771]
    table = f"By [stream]({page}).\n\n| a |\n|---|\n| 85.0 |\n| 85.1 |\n"
    assert [n for n, _ in missing(table)] == [85.1]
