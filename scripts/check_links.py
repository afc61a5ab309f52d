"""Looks at every link, picture, style and script of a built site: what is dead, or fetched from elsewhere.

python scripts/check_links.py build/site

Inside the site each target must exist, and each anchor. Links to other sites are checked by their form alone, because a
check must not depend on the network; nothing but links may lead there, so that reading a page tells nobody.
"""

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

_LOADED = {("img", "src"), ("script", "src"), ("link", "href"), ("source", "src"), ("iframe", "src")}


class Page(HTMLParser):
    """What a page points to, and the anchors that it has."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.targets: list[tuple[str, bool]] = []
        """(address, whether the browser fetches it by itself)"""
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("id", "name") and value:
                self.anchors.add(value)
            if value is not None and (name in ("href", "src")):
                self.targets.append((value, (tag, name) in _LOADED))


def faults(site: Path) -> list[str]:
    """One line for each thing that is wrong."""
    pages = {path: Page(path) for path in sorted(site.rglob("*.html"))}
    return [
        f"{path.relative_to(site)}: {fault}"
        for path, page in pages.items()
        for address, is_loaded in page.targets
        if (fault := _fault(path, address, is_loaded, site, pages))
    ]


def _fault(page: Path, address: str, is_loaded: bool, site: Path, pages: dict[Path, Page]) -> str | None:
    parts = urlsplit(address)
    if parts.scheme in ("data", "mailto"):
        return None
    if parts.scheme or parts.netloc:
        if is_loaded:
            return f"{address} is fetched from elsewhere"
        good = parts.scheme == "https" and "." in parts.netloc and not set(address) & set(" <>{}|\\^`")
        return None if good else f"{address} is no address that can be followed"
    target = page
    if parts.path:
        target = site / parts.path.lstrip("/") if parts.path.startswith("/") else page.parent / unquote(parts.path)
    target = target.resolve()
    target = target / "index.html" if target.is_dir() else target
    if not target.is_file():
        return f"{address} does not exist"
    anchor = unquote(parts.fragment)
    if anchor and target in pages and anchor not in pages[target].anchors:
        return f"{address}: there is no such place on that page"
    return None


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    site = Path(sys.argv[1]).resolve()
    found = faults(site)
    print("\n".join(found) or f"{len(list(site.rglob('*.html')))} pages: every link leads somewhere")
    sys.exit(bool(found) or not (site / "index.html").is_file())


if __name__ == "__main__":
    main()
