"""Check the built pages: every local link, anchor and image is there, and nothing is fetched from elsewhere.

python docs/check_links.py build/docs/html
"""

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

# What a page loads by itself; a link that a reader follows may lead anywhere.
LOADED = {"script", "img", "link", "iframe", "source", "video", "object"}


class Page(HTMLParser):
    """The ids of a page, and what it points to as (tag, address)."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.addresses: list[tuple[str, str]] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take down what matters of a tag."""
        found = dict(attrs)
        self.ids.update(value for key in ("id", "name") if (value := found.get(key)))
        if tag == "link" and found.get("rel") in ("canonical", "next", "prev", "search", "index"):
            tag = "a"
        self.addresses += [(tag, value) for key in ("href", "src", "data") if (value := found.get(key))]


def problems(root: Path) -> list[str]:
    """Return a line for each address that leads nowhere or is loaded from elsewhere."""
    pages = {path.resolve(): Page(path) for path in sorted(root.rglob("*.html"))}
    found = [] if pages else [f"{root}: no pages"]
    for path, page in pages.items():
        name = path.relative_to(root.resolve())
        for tag, address in page.addresses:
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                if tag in LOADED and parts.scheme != "data":
                    found.append(f"{name}: loads {address}")
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.is_file():
                found.append(f"{name}: {address} is not there")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].ids:
                # The page for searching takes what stands after its address by itself.
                found.append(f"{name}: {address} has no such anchor")
    return found


if __name__ == "__main__":
    lines = problems(Path(sys.argv[1]))
    print("\n".join(lines) or "every link, anchor and image is there, and nothing is loaded from elsewhere")
    sys.exit(bool(lines))
