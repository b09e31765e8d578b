"""What README, CONTRIBUTING and the pages of docs/ name is there, and so is what they link to."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    page.relative_to(ROOT).as_posix()
    for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("tutorials/*.md"))
    if page.name != "CHANGELOG.md"  # it names what was there
]
NOT_IN_A_CHECKOUT = ("NAME", "SHARED", ".venv")
WRITTEN = ("report/", "machines/", "program/", "mine/", "demo_output/", "golden/")  # by the commands of a page
MADE_BY_TUTORIALS = ("test_shrink.py",)


def paths_in(text: str) -> set[str]:
    """What stands in backquotes and looks like a path."""
    named = set(re.findall(r"`([\w.-]+(?:/[\w.-]+)+/?|[\w-]+\.(?:py|toml|md))`", text))
    return {
        path for path in named
        if not any(word in path for word in NOT_IN_A_CHECKOUT) and not path.startswith(WRITTEN) and not path.endswith(MADE_BY_TUTORIALS)
    }  # fmt: skip


def dead_links(page: Path) -> list[str]:
    """Links to files that are not there, and to headings of the page itself that it has not."""
    text = page.read_text(encoding="utf-8")
    heads = {
        re.sub(r"[^\w\s-]", "", head).strip().lower().replace(" ", "-") for head in re.findall(r"^#+ (.*)$", text, re.M)
    }
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    return [
        link for link in links
        if (link[1:] not in heads if link.startswith("#") else not (page.parent / link.split("#")[0]).exists())
    ]  # fmt: skip


@pytest.mark.parametrize("page", PAGES)
def test_paths_of_a_page_exist(page: str) -> None:
    named = paths_in((ROOT / page).read_text(encoding="utf-8"))
    roots = (ROOT, ROOT / "python" / "qaccel", ROOT / "tutorials", ROOT / "tests")
    assert len(named) > 4 or page not in ("README.md", "CONTRIBUTING.md")
    assert not [path for path in sorted(named) if not any((root / path).exists() for root in roots)]


@pytest.mark.parametrize("page", PAGES)
def test_links_of_a_page_lead_somewhere(page: str) -> None:
    assert dead_links(ROOT / page) == []


def test_a_dead_link_is_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A head\n[here](#a-head) [there](#another) [file](page.md) [gone](gone.md) [web](https://x.org/y)\n"
    )
    assert dead_links(page) == ["#another", "gone.md"]
