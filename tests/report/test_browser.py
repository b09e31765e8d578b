"""report.html in a headless Chromium: drawn without an error at three widths, light, dark and on paper, and clicked through."""

import json
from pathlib import Path
from typing import Any

import pytest

import qaccel
import small_models
from networks import data
from qaccel.report.page.page import report_html
from report.browser import chromium, opened, painted

pytestmark = pytest.mark.wide
WIDTHS = (400, 1000, 1600)
EVIL = "<img src=x onerror=alert(1)>&$$x$$"


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def report(browser: Any) -> dict:
    model = data.HERE / "mobilenet.onnx"
    return json.loads(json.dumps(qaccel.compile(model, bits="W4A8", target="qaccel -config=qaccel-64").report))


@pytest.fixture(scope="module")
def path(report: dict, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("page"), report_html(report))


def written(folder: Path, page: str) -> Path:
    path = folder / "report.html"
    path.write_text(page, encoding="utf-8")
    return path


@pytest.mark.parametrize("width", WIDTHS)
def test_all_charts_are_drawn_and_nothing_sticks_out(browser: Any, path: Path, width: int):
    with opened(browser, path, width) as page:
        counts = painted(page)
        assert len(counts) == 8 and min(counts.values()) > 2000, counts
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        for place in page.query_selector_all(".chart"):
            box = place.bounding_box()
            assert box["x"] >= 0 and box["x"] + box["width"] <= width and box["height"] > 150


@pytest.mark.parametrize("width", WIDTHS)
def test_a_row_is_as_tall_as_its_names_make_it(browser: Any, path: Path, width: int):
    """What a layer could save stays on its one line, and within its cell; the table scrolls."""
    with opened(browser, path, width) as page:
        lines, beyond = page.evaluate(
            """() => ["lines", "beyond"].map((what) => Math.max(...[...document.querySelectorAll("#layers td:last-child")].map((cell) => {
                const text = document.createRange();
                text.selectNodeContents(cell);
                const box = text.getBoundingClientRect();
                return what == "lines" ? box.height / parseFloat(getComputedStyle(cell).lineHeight)
                    : box.right - cell.getBoundingClientRect().right;
            })))"""
        )
        assert lines < 1.5 and beyond < 0


def test_what_a_fault_of_the_page_looks_like(browser: Any, report: dict, tmp_path: Path):
    """Seeded: a script that throws, one that fetches, and a name that is no text any more."""
    for fault in (
        "<script>throw Error('seeded')</script>",
        "<img src='http://127.0.0.1:9/x.png'>",
        "<script>alert('seeded')</script>",
    ):
        path = written(tmp_path, report_html(report).replace("</h1>", f"</h1>{fault}"))
        with pytest.raises(AssertionError), opened(browser, path, 1000):
            pass


def test_tables_sort(browser: Any, report: dict, path: Path):
    with opened(browser, path, 1000) as page:
        heads = page.eval_on_selector_all("#layers thead button", "each => each.map(x => x.textContent)")

        def cells(name: str) -> list[str]:
            place = f"#layers tbody td:nth-child({heads.index(name) + 1})"
            return page.eval_on_selector_all(place, "each => each.map(x => x.textContent)")

        def click(name: str) -> None:
            page.click(f"#layers thead th:nth-child({heads.index(name) + 1}) button")

        cycles = [layer["cycles"] for layer in report["layers"]]
        names, ops = (
            [" + ".join([x[what], *([x["post"][what]] if x["post"] else [])]) for x in report["layers"]]
            for what in ("name", "op")
        )
        assert any("+" in op for op in ops)
        assert cells("layer") == names
        click("cycles")
        assert cells("cycles") == [f"{each:,}" for each in sorted(cycles, reverse=True)]
        assert (
            page.get_attribute(f"#layers thead th:nth-child({heads.index('cycles') + 1})", "aria-sort") == "descending"
        )
        click("cycles")
        assert cells("cycles") == [f"{each:,}" for each in sorted(cycles)]
        click("operator")
        assert cells("operator") == sorted(ops, key=str.lower)
        saved = [max((cure["cycles"] for cure in layer["cures"]), default=0) for layer in report["layers"]]
        assert 0 in saved and max(saved) >= 1000  # as text, 1,000 comes before 20
        click("would save cycles")
        order = page.eval_on_selector_all("#layers tbody td:first-child", "each => each.map(x => x.textContent)")
        assert [saved[int(n) - 1] for n in order] == sorted(saved)
        click("#")
        click("#")
        assert cells("layer") == names


def test_the_network_takes_other_colours(browser: Any, path: Path):
    colours = """() => Bokeh.documents[0].roots().flatMap((root) => root.renderers ?? []).find((each) => each.name === "boxes")
        .glyph.fill_color.field"""
    with opened(browser, path, 1000) as page:
        seen, shown = set(), set()
        for key in page.eval_on_selector_all("#colouring option", "each => each.map(x => x.value)"):
            page.select_option("#colouring", key)
            seen.add(page.evaluate(colours))
            shown.add(page.evaluate("document.querySelector('[data-by]:not([hidden])').dataset.by"))
            assert page.locator("[data-by]:not([hidden])").count() == 1
        assert len(seen) == len(shown) == 7


def test_dark_mode_is_dark(browser: Any, path: Path):
    """Background, words and the charts' axes change places, also while one looks."""
    axes = "getComputedStyle(document.documentElement).getPropertyValue('--bk-axis-label-text-color').trim()"
    brightest = """() => {
        const canvas = Bokeh.index.get_by_id(Bokeh.documents[0].roots()[0].id).export("png", true).canvas;
        const data = canvas.getContext("2d").getImageData(0, canvas.height - 40, canvas.width, 40).data;
        let most = 0;
        for (let k = 0; k < data.length; k += 4) if (data[k + 3] > 200) most = Math.max(most, data[k] + data[k + 1] + data[k + 2]);
        return most;
    }"""

    def look(page: Any) -> tuple[int, str, int]:
        text = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(map(int, text[4:-1].split(","))), page.evaluate(axes), page.evaluate(brightest)

    with opened(browser, path, 1000) as page:
        light = look(page)
        page.emulate_media(color_scheme="dark")
        page.wait_for_timeout(200)
        dark = look(page)
        assert light[0] > 600 > 200 > dark[0]
        assert light[1] < "#888888" < dark[1]
        assert light[2] < dark[2]


def test_on_paper(browser: Any, path: Path, tmp_path: Path):
    """In light colours, all rows of the tables, and the charts as wide as the sheet; afterwards all is as before."""
    with opened(browser, path, 1600, "dark") as page:
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert page.locator(".chart.printed > canvas").count() == 8
        assert "light" in page.get_attribute("html", "class")
        page.emulate_media(media="print")
        widths = page.evaluate(
            "[...document.querySelectorAll('.chart')].map(x => [x.offsetWidth, x.querySelector('canvas').offsetWidth])"
        )
        assert all(0 < canvas <= place for place, canvas in widths)
        assert page.evaluate("getComputedStyle(document.querySelector('.wide')).maxHeight") == "none"
        page.set_viewport_size({"width": 794, "height": 1123})  # A4
        assert page.evaluate(
            "[...document.querySelectorAll('.wide')].every(x => x.scrollWidth <= document.body.clientWidth)"
        )
        page.set_viewport_size({"width": 1600, "height": 900})
        page.emulate_media(media="screen")
        page.evaluate("dispatchEvent(new Event('afterprint'))")
        assert page.locator(".printed").count() == 0 and "light" not in page.get_attribute("html", "class")
        sheet = page.pdf(path=tmp_path / "report.pdf", format="A4")
        assert sheet.startswith(b"%PDF") and len(sheet) > 20_000


def test_names_are_text_in_charts_too(browser: Any, report: dict, tmp_path: Path):
    report = json.loads(json.dumps(report))
    for each in (*report["layers"], *report["sram"]):
        each["name"] = EVIL
    with opened(browser, written(tmp_path, report_html(report)), 1000) as page:
        box = page.locator("#chart-sram").bounding_box()
        page.locator("#chart-sram").scroll_into_view_if_needed()
        box = page.locator("#chart-sram").bounding_box()
        for share in (0.3, 0.5, 0.7):
            page.mouse.move(box["x"] + box["width"] * share, box["y"] + box["height"] * 0.75)
            page.wait_for_timeout(150)
        assert page.evaluate("document.querySelectorAll('img').length") == 0


def test_a_search_has_its_curve(browser: Any, tmp_path: Path):
    model = small_models.chain()
    samples = small_models.samples(model, 32)
    report = json.loads(json.dumps(qaccel.compile(model, calibration_data=samples, bits="auto", max_drop=5).report))
    with opened(browser, written(tmp_path, report_html(report)), 1000) as page:
        assert painted(page)["chart-pareto"] > 2000
        rows = page.locator("#why tbody tr").count()
        assert rows == len(report["search"]["decisions"]) and page.locator("#plans tbody tr").count() == len(
            report["search"]["plans"]
        )
