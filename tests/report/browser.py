"""A headless Chromium for tests of pages: one that is installed, driven by playwright; without either the test skips and says which."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@contextmanager
def chromium() -> Iterator[Any]:
    """The browser. Root, as whom containers run tests, gets it without its sandbox."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with api.sync_playwright() as driver:
        own = driver.chromium.executable_path
        found = next(filter(None, map(shutil.which, NAMES)), own if os.path.exists(own) else None)
        if found is None:
            pytest.skip(f"no Chromium here: none of {', '.join(NAMES)} on PATH, none of playwright's")
        browser = driver.chromium.launch(executable_path=found, args=["--no-sandbox"] if os.geteuid() == 0 else [])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(browser: Any, path: Path, width: int, scheme: str = "light") -> Iterator[Any]:
    """The page of a file, drawn. At its end it must have logged no error, asked for nothing else, and shown no dialog."""
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    faults: list[str] = []
    page.on("console", lambda said: faults.append(said.text) if said.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on(
        "request", lambda asked: None if asked.url == path.as_uri() else faults.append(f"asked for {asked.url[:200]}")
    )
    page.on("dialog", lambda dialog: (faults.append(f"dialog {dialog.message}"), dialog.dismiss()))
    page.goto(path.as_uri())
    page.wait_for_selector("html.drawn", state="attached", timeout=60_000)
    yield page
    page.wait_for_timeout(200)
    page.close()
    assert not faults


def painted(page: Any) -> dict[str, int]:
    """By chart, how many of its pixels are painted."""
    return page.evaluate(
        """() => Object.fromEntries([...document.querySelectorAll(".chart")].map((place) => {
            const id = Object.keys(JSON.parse(document.getElementById("charts").textContent).roots).find(
                (key) => JSON.parse(document.getElementById("charts").textContent).roots[key] === place.id);
            const canvas = Bokeh.index.get_by_id(id).export("png", true).canvas;
            const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
            let count = 0;
            for (let k = 3; k < data.length; k += 4) count += data[k] > 0;
            return [place.id, count];
        }))"""
    )
