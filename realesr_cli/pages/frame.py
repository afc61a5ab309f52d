"""The HTML of a page around its content: template, style and script of this folder, put into one text.

Traps: what is put in must be HTML already (`escaped`). Scripts and styles run by their hash alone: neither an
attribute `onclick` nor `style` works, so that no name of a file can bring one in.
"""

import base64
import hashlib
import html
from importlib.resources import files
from string import Template

_CONTENT = "<!-- content -->\n"


def page_frame(name: str, title: str, **parts: str) -> tuple[str, str]:
    """What comes before and after the content of the page `name`: its files are `<name>.html`, `.css` and `.js`.

    `title` is plain text, `parts` is the HTML for further places `$part` of the template.
    """
    style, script = _read("common.css") + _read(f"{name}.css"), _read(f"{name}.js")
    policy = (
        f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}; "
        "base-uri 'none'; form-action 'none'"
    )
    page = Template(_read(f"{name}.html")).substitute(
        policy=policy, title=escaped(title), style=style, script=script, **parts
    )
    before, after = page.split(_CONTENT)
    return before, after


def data_uri(data: bytes, kind: str = "webp") -> str:
    """A picture file as an address that holds it; `kind` as in `image/webp`."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def escaped(text: str) -> str:
    """Any text, names of files with bytes that are no text included, as HTML that shows it."""
    return html.escape(text.encode(errors="replace").decode())


def _read(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
