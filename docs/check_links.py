"""Links within a built documentation: every file and anchor must be there, and no page may load from elsewhere.

``python docs/check_links.py docs/_build`` prints what is broken and ends with 1 if anything is.
"""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

#: Attributes by which a page loads something; a link to elsewhere may stay, unchecked.
LOADS = {("img", "src"), ("script", "src"), ("link", "href")}


class Page(HTMLParser):
    """Anchors of a page, what it links to, and what it loads."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[tuple[str, bool]] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note anchors and links of one element."""
        for name, value in attrs:
            if name in ("id", "name") and value:
                self.anchors.add(value)
            elif name in ("href", "src") and value:
                self.links.append((value, (tag, name) in LOADS))


def broken(folder: Path) -> list[str]:
    """What is broken in the pages of a folder, a line each."""
    pages = {path.resolve(): Page(path) for path in sorted(folder.rglob("*.html"))}
    return [
        f"{path.relative_to(folder.resolve())}: {link}: {why}"
        for path, page in pages.items()
        for link, is_loaded in page.links
        if (why := _why_broken(path, link, is_loaded, pages))
    ]


def _why_broken(path: Path, link: str, is_loaded: bool, pages: dict[Path, Page]) -> str:
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return "is loaded from elsewhere" if is_loaded and parts.scheme != "data" else ""
    target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    if not target.is_file():
        return "no such file"
    if parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
        return "no such anchor"
    return ""


if __name__ == "__main__":
    found = broken(Path(sys.argv[1]))
    print("\n".join(found) or "all internal links hold")
    sys.exit(1 if found else 0)
