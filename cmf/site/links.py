"""Are the links of a built site whole, and does opening it fetch nothing from elsewhere?"""

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

_LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "link": "href"}


class _Page(HTMLParser):
    """Names of the places of a page, what it links to, and what it loads."""

    def __init__(self, text: str):
        super().__init__()
        self.places, self.links, self.loads = set(), set(), set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.places |= {found[key] for key in ("id", "name") if found.get(key)}
        if tag == "a" and found.get("href"):
            self.links.add(found["href"])
        elif found.get(_LOADED.get(tag, "")):
            self.loads.add(found[_LOADED[tag]])


def problems(site: Path) -> list[str]:
    """One line for each link into the site that leads nowhere, and each script, style, font or picture from outside."""
    pages = {path: _Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}
    found = []
    for path, page in pages.items():
        name = path.relative_to(site).as_posix()
        found += [f"{name} loads {address}" for address in sorted(page.loads) if _outside(address)]
        for address in sorted(page.links | page.loads):
            parts = urlsplit(address)
            if _outside(address) or parts.scheme in ("data", "mailto", "javascript"):
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.is_file():
                found.append(f"{name} links to {address}, which is not there")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].places:
                found.append(f"{name} links to {address}, and that page has no such place")
    for path in sorted(site.rglob("*.css")):
        for address in re.findall(r"(?:url\(|@import\s)\s*[\"']?([^\"')\s]+)", path.read_text(encoding="utf-8")):
            if _outside(address):
                found.append(f"{path.relative_to(site).as_posix()} loads {address}")
    return found


def _outside(address: str) -> bool:
    return address.startswith("//") or urlsplit(address).scheme in ("http", "https", "ftp")
