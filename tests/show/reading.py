"""Read a page as a browser does, and find what doesn't belong there."""

from __future__ import annotations

from html.parser import HTMLParser

ELEMENTS = {
    *[
        "html",
        "head",
        "meta",
        "title",
        "style",
        "script",
        "body",
        "a",
        "header",
        "main",
        "section",
        "article",
        "p",
        "h1",
        "h2",
        "h3",
        "h4",
        "ul",
        "ol",
        "li",
        "div",
        "span",
        "strong",
        "em",
        "br",
    ],
    *[
        "figure",
        "figcaption",
        "img",
        "details",
        "summary",
        "table",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
        "caption",
        "dl",
        "dt",
        "dd",
        "svg",
        "rect",
        "code",
        "nav",
    ],
}
ATTRIBUTES = {
    *[
        "lang",
        "charset",
        "http-equiv",
        "content",
        "name",
        "class",
        "id",
        "href",
        "role",
        "scope",
        "src",
        "alt",
        "tabindex",
        "open",
        "viewBox",
        "preserveAspectRatio",
    ],
    *["viewbox", "preserveaspectratio", "width", "height", "aria-label", "aria-hidden"],
}


class Page(HTMLParser):
    """All elements and attributes of a page, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def foreign(self) -> list[str]:
        """Elements, attributes and addresses that no template writes."""
        found = [tag for tag, _ in self.tags if tag not in ELEMENTS]
        for tag, attributes in self.tags:
            found += [f"{tag} {name}" for name in attributes if name not in ATTRIBUTES]
            for name in ("src", "href"):
                address = attributes.get(name)
                if address is not None and not address.startswith(("data:image/", "#")):
                    found.append(f"{tag} {name}={address}")
        return found

    def count(self, tag: str) -> int:
        """How often an element stands on the page."""
        return sum(found == tag for found, _ in self.tags)

    @property
    def text(self) -> str:
        """The visible text and the alternative texts."""
        return " ".join([*self.words, *(a.get("alt") or "" for _, a in self.tags)])
