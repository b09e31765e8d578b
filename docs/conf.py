"""The documentation as a site: `make docs`. The pages here, and what is made from other places: command line, API, manual.

What other places own is written to docs/generated/ before Sphinx reads: nothing is said twice.
"""

import contextlib
import io
import os
import re
from pathlib import Path

import qaccel
from qaccel.cli.main import VERBS, main

ROOT = Path(__file__).resolve().parents[1]
GENERATED = Path(__file__).resolve().parent / "generated"
# Pages that lie elsewhere in the repository, and their names here.
PAGES = {
    "target/MANUAL.md": "manual.md",
    "SUPPORTED_OPS.md": "operators.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "tutorials/README.md": "tutorials.md",
    "tutorials/13_add_an_operator.md": "add_an_operator.md",
}
HELP_COLUMNS = "100"

project, author, copyright = "qaccel", "the qaccel authors", "the qaccel authors"
release = qaccel.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"qaccel {release}"
myst_heading_anchors = 4
napoleon_numpy_docstring = False
default_role = "code"
smartquotes = False  # quotes in these pages are typed on a command line
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the signatures have them
suppress_warnings = ["misc.highlighting_failure"]  # a block of the page on operators is a patch of a part of a file


def linked(text: str, folder: Path) -> str:
    """Markdown with its links as they are here: to pages of the site; of other files only the words stay."""

    def target(match: re.Match[str]) -> str:
        words, link = match.groups()
        if "://" in link or link.startswith("#"):
            return match[0]
        path, _, anchor = link.partition("#")
        place = Path(os.path.normpath(folder / path))
        inside = place.relative_to(ROOT).as_posix()
        if inside in PAGES:
            return f"[{words}](/generated/{PAGES[inside]}{'#' + anchor if anchor else ''})"
        if inside.startswith("docs/"):
            return f"[{words}](/{inside.removeprefix('docs/')}{'#' + anchor if anchor else ''})"
        return f"`{inside}`" if words == inside else f"{words} (`{inside}`)"

    return re.sub(r"\[([^\]]+)\]\(([^)\s]+)\)", target, text)


def help_of(*arguments: str) -> str:
    """What tvmc prints for --help."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        main([*arguments, "--help"])
    return out.getvalue().strip()


def generate() -> None:
    """Everything under docs/generated."""
    GENERATED.mkdir(exist_ok=True)
    for source, name in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        (GENERATED / name).write_text(linked(text, (ROOT / source).parent), encoding="utf-8")
    os.environ["COLUMNS"] = HELP_COLUMNS
    verbs = "\n".join(f"## tvmc {verb}\n\n```text\n{help_of(verb)}\n```\n" for verb in VERBS)
    (GENERATED / "cli.md").write_text(f"# The command line\n\n```text\n{help_of()}\n```\n\n{verbs}", encoding="utf-8")


def read(_app: object, name: str, source: list[str]) -> None:
    """A page of this folder, with its links as they are here."""
    if not name.startswith("generated/"):
        source[0] = linked(source[0], ROOT / "docs")


def setup(app: object) -> None:
    """What Sphinx calls."""
    generate()
    app.connect("source-read", read)
