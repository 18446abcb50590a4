"""Parse a page's text and tables with the standard library."""

from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

VOID = {"meta", "link", "input", "img", "br", "hr"}


@dataclass
class Node:
    """Element of a page with its children and text."""

    tag: str
    attributes: dict[str, str]
    parts: "list[Node | str]" = field(default_factory=list)

    @property
    def text(self) -> str:
        """Return the text of the element and its descendants."""
        return "".join(part if isinstance(part, str) else part.text for part in self.parts)

    def all(self, tag: str, **attributes: str) -> "list[Node]":
        """Return the descendants with a tag and attributes (`class_` for a class), in order."""
        found = []
        for part in self.parts:
            if isinstance(part, Node):
                if part.tag == tag and all(part.has(k, v) for k, v in attributes.items()):
                    found.append(part)
                found += part.all(tag, **attributes)
        return found

    def one(self, tag: str, **attributes: str) -> "Node":
        """Return the first descendant that `all` finds."""
        return self.all(tag, **attributes)[0]

    def has(self, name: str, value: str) -> bool:
        """Return whether the element has this attribute, or (`class_`) this class."""
        if name == "class_":
            return value in self.attributes.get("class", "").split()
        return self.attributes.get(name) == value

    def walk(self) -> "list[Node]":
        """Return the element and its descendants."""
        below = [node for part in self.parts if isinstance(part, Node) for node in part.walk()]
        return [self, *below]


class _Builder(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.root = Node("", {})
        self.open = [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        node = Node(tag, {name: value or "" for name, value in attrs})
        self.open[-1].parts.append(node)
        if tag not in VOID:
            self.open.append(node)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open[-1].parts.append(Node(tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1].tag == tag, f"</{tag}> closes <{self.open[-1].tag}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.open[-1].parts.append(data)


def read_page(page: str | Path) -> Node:
    """Return the tree of a page; assert that every element is closed."""
    builder = _Builder()
    builder.feed(page.read_text(encoding="utf-8") if isinstance(page, Path) else page)
    builder.close()
    assert builder.open == [builder.root], [node.tag for node in builder.open]
    return builder.root


def rows_of(table: Node) -> list[dict[str, str]]:
    """Return a table's rows as text, indexed by column heading."""
    (head, *rows) = table.all("tr")
    names = [cell.text.strip() for cell in head.all("th")]
    cells = [[part for part in row.parts if isinstance(part, Node)] for row in rows]
    return [dict(zip(names, (cell.text.strip() for cell in row), strict=True)) for row in cells]
