"""The HTML report in a real browser, by mouse and keyboard, in both colour schemes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from render_samples import EMPTY, LARGE, NASTY, SMALL, UNTRUSTED, WITHOUT_SHAPES

from pytest_dwsconv.core.budget import Budget, check_limits
from pytest_dwsconv.core.limits import AnyCheck
from pytest_dwsconv.core.plaintext import plain
from pytest_dwsconv.core.rules import Verdict
from pytest_dwsconv.core.suite.changes import Change, Changes, ChangeStatus, ModelChange, Outcome
from pytest_dwsconv.render import Reporters, SuiteRun, write_run

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
axe = pytest.importorskip(
    "axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed"
)

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SHOWN = "tbody tr:visible th"
UNSURE = replace(
    SMALL.findings[0],
    name="aux.conv",
    verdict=Verdict.CANNOT_TELL,
    code="DWS203",
    separable_params=None,
    calls=1,
)
MIXED = replace(SMALL, findings=(*SMALL.findings, UNSURE))
LIMITED = Reporters(
    {"net:small"},
    {f"tests/test_{n}.py::test" for n in range(8)},
    [*check_limits(SMALL, Budget("1M", "2G"))],
)


COSTS = (
    Change("params", "parameters", 576, 612, too_much=True),
    Change("macs", "MACs", 9000, 9000),
)
GROWN = Outcome(
    Changes("main.json", (ModelChange("Small", ChangeStatus.CHANGED, COSTS),)), ("Odd: odd",)
)
OVER: list[AnyCheck] = [*check_limits(EMPTY, Budget(params=1))]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip("there is no Chromium here: install Debian's package chromium")
    with playwright.sync_playwright() as driver:
        # reason: root has no sandbox of its own in a container, and the pages are ours
        options = ["--no-sandbox"] if os.geteuid() == 0 else []
        opened = driver.chromium.launch(executable_path=path, args=options)
        yield opened
        opened.close()


class Opener:
    """Writes a run to a file and opens that, without a network and with no error allowed."""

    def __init__(self, browser: Any, folder: Path) -> None:
        self._browser = browser
        self._folder = folder
        self.complaints: list[str] = []
        self.requests: list[str] = []

    def __call__(
        self,
        run: SuiteRun,
        width: int = 1280,
        scheme: str = "light",
        outcome: Outcome = Outcome(),  # it cannot be changed
        **options: Any,
    ) -> Any:
        path = self._folder / "report.html"
        write_run("html", run, path, outcome=outcome)
        size = {"width": width, "height": 900}
        context = self._browser.new_context(
            viewport=size, color_scheme=scheme, offline=True, **options
        )
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("dialog", lambda dialog: self.complaints.append(dialog.message))
        page.on("request", lambda request: self.requests.append(request.url))
        page.goto(path.as_uri())
        return page


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Opener]:
    opener = Opener(browser, tmp_path)
    yield opener
    assert opener.complaints == []
    assert {url.partition(":")[0] for url in opener.requests} <= {"file"}


def names(page: Any) -> list[str]:
    return [str(name) for name in page.locator(SHOWN).all_inner_texts()]


def header(page: Any, label: str) -> Any:
    return page.get_by_role("columnheader", name=label, exact=True)


def test_the_page_is_read_as_it_is_meant(opened: Opener) -> None:
    page = opened({MIXED: LIMITED})
    assert page.title() == "Depthwise separable candidates of Small"
    table = page.get_by_role("table", name="5 convolutions of Small, in the order of execution")
    assert table.get_by_role("columnheader").all_inner_texts()[:3] == ["layer", "type", "kernel"]
    assert table.get_by_role("rowheader").all_inner_texts() == [
        *(row.name for row in MIXED.findings),
        "3 candidates",
        "5 convolutions",
        "whole model",
    ]
    whole = table.get_by_role("row").filter(has=page.get_by_role("rowheader", name="whole model"))
    assert f"{SMALL.params:,}" in whole.inner_text()
    assert f"{SMALL.separable_params:,}" in whole.inner_text()
    figures = page.get_by_role("list", name="Totals of Small").inner_text()
    assert "2.44M" in figures
    assert "8.01x" in figures
    budget = (
        page.get_by_role("list", name="Budget of Small").get_by_role("listitem").all_inner_texts()
    )
    assert [text.split()[0] for text in budget] == ["over", "within"]
    assert str(LIMITED.checks[0]) in budget[0]


def test_sorting_by_mouse(opened: Opener) -> None:
    page = opened({MIXED: Reporters()})
    order = names(page)
    params = header(page, "params")
    params.get_by_role("button").click()
    assert params.get_attribute("aria-sort") == "descending"
    largest = sorted(MIXED.findings, key=lambda row: -(row.params or 0))
    assert names(page) == [row.name for row in largest]
    params.get_by_role("button").click()
    assert params.get_attribute("aria-sort") == "ascending"
    assert names(page) == [
        row.name for row in sorted(MIXED.findings, key=lambda row: row.params or 0)
    ]
    assert page.get_by_role("status").inner_text() == "5 convolutions, sorted by params, ascending"
    params.get_by_role("button").click()
    assert params.get_attribute("aria-sort") == "none"
    assert names(page) == order
    header(page, "layer").get_by_role("button").click()
    assert header(page, "layer").get_attribute("aria-sort") == "ascending"
    assert names(page) == sorted(order)
    assert page.locator("[aria-sort]:not([aria-sort=none])").count() == 1


def test_what_is_not_known_sorts_last_either_way(opened: Opener) -> None:
    page = opened({MIXED: Reporters()})
    button = header(page, "saving").get_by_role("button")
    for expected in (["stem", "body.conv2", "body.conv1"], ["body.conv1", "body.conv2", "stem"]):
        button.click()
        assert names(page)[:3] == expected
        assert set(names(page)[3:]) == {"body.shortcut", "aux.conv"}


def test_filtering_by_typing_and_choosing(opened: Opener) -> None:
    page = opened({MIXED: Reporters()})
    field = page.get_by_role("searchbox", name="Filter")
    field.press_sequentially("BODY conv")
    assert names(page) == ["body.conv1", "body.shortcut", "body.conv2"]
    assert page.get_by_role("status").inner_text() == "3 of 5 shown"
    header(page, "params").get_by_role("button").click()
    assert names(page) == ["body.conv2", "body.conv1", "body.shortcut"]
    assert page.get_by_role("status").inner_text() == "3 of 5 shown, sorted by params, descending"
    verdict = page.get_by_role("combobox", name="Verdict")
    assert verdict.locator("option").all_inner_texts() == [
        "all",
        "candidate",
        "ineligible",
        "cannot tell",
    ]
    verdict.select_option("ineligible")
    assert names(page) == ["body.shortcut"]
    field.fill("nothing like it")
    assert names(page) == []
    assert page.get_by_text("No convolution matches").is_visible()
    field.press("Enter")
    field.fill("")
    verdict.select_option("cannot tell")
    assert names(page) == ["aux.conv"]
    field.fill("nothing to separate")
    verdict.select_option("all")
    assert names(page) == ["body.shortcut"]


def test_each_model_has_its_own_table(opened: Opener) -> None:
    page = opened(
        {
            SMALL: Reporters({"a:small"}),
            replace(WITHOUT_SHAPES, model="Twin"): Reporters({"b:small"}),
            replace(EMPTY, model="Over"): Reporters(set(), {"t.py::t"}, OVER),
            EMPTY: Reporters(),
        }
    )
    third, first, second = page.locator("main > section").all()
    first.get_by_role("searchbox").fill("stem")
    assert first.locator(SHOWN).count() == 1
    assert second.locator(SHOWN).count() == len(WITHOUT_SHAPES.findings)
    assert second.get_by_role("radio").count() == 0
    assert "not known" in second.get_by_role("list", name="Totals of Twin").inner_text()
    assert "Over has no convolutions" in third.inner_text()
    assert page.get_by_text("1 model has no convolutions: Linear").is_visible()
    page.get_by_role("navigation", name="Models").get_by_role("link").nth(2).click()
    assert page.url.endswith("#model-3")


def test_models_are_sorted_and_filtered_after_a_table_of_before_and_after(opened: Opener) -> None:
    page = opened({MIXED: Reporters()}, outcome=GROWN)
    assert page.get_by_role("table", name="Costs of models before and after").is_visible()
    header(page, "params").get_by_role("button").click()
    page.get_by_role("searchbox", name="Filter").fill("body")
    model = page.locator("#model-1")
    assert model.locator(SHOWN).all_inner_texts() == ["body.conv2", "body.conv1", "body.shortcut"]


def test_the_index_is_sorted_by_its_numbers(opened: Opener) -> None:
    models = [replace(SMALL, model=f"Small{n}", params=10**7 + n) for n in range(60)]
    run: SuiteRun = dict.fromkeys(models, Reporters())
    page = opened(run)
    index = page.get_by_role("navigation", name="Models")
    assert index.get_by_role("link").count() == 60
    index.get_by_role("button", name="params").click()
    assert index.get_by_role("link").first.inner_text() == "Small59"
    assert index.get_by_role("row").nth(1).get_by_role("cell").all_inner_texts() == [
        "10,000,059",
        f"{SMALL.macs:,}",
        "3",
        f"{replace(SMALL, params=10**7 + 59).saving:.2f}x",
        "\N{EN DASH}\nno budget",
        "0",
        "1 x 3 x 224 x 224",
    ]


def test_by_keyboard_alone(opened: Opener) -> None:
    page = opened({MIXED: Reporters()})

    def focused() -> str:
        return str(
            page.evaluate(
                "document.activeElement.name || document.activeElement.textContent.trim()"
            )
        )

    def outlined() -> bool:
        return bool(
            page.evaluate("parseFloat(getComputedStyle(document.activeElement).outlineWidth) >= 1")
        )

    reached = []
    for _ in range(6):
        page.keyboard.press("Tab")
        reached.append(focused())
        assert outlined(), reached
    assert reached[:3] == ["filter", "verdict", "model-1-measure"]
    assert page.evaluate("document.activeElement.closest('table') !== null")
    while focused() != "params":
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert names(page)[0] == "body.conv2"
    page.keyboard.press("Space")
    assert names(page)[0] == "stem"
    page.get_by_role("radio", name="parameters").focus()
    page.keyboard.press("ArrowRight")
    assert page.get_by_role("radio", name="MACs").is_checked()


def test_the_bars_are_as_long_as_their_numbers(opened: Opener) -> None:
    page = opened({SMALL: Reporters()})
    largest = {key: max(getattr(row, key) for row in SMALL.findings) for key in ("params", "macs")}
    for key, label in (("params", "parameters"), ("macs", "MACs")):
        page.get_by_role("radio", name=label).check()
        assert page.locator(".pair:visible").count() == len(SMALL.findings)
        for row, bars in zip(SMALL.findings, page.locator(f".pair.{key}").all(), strict=True):
            whole = bars.bounding_box()["width"]
            before, *after = [bar.bounding_box()["width"] for bar in bars.locator("rect").all()]
            assert before / whole == pytest.approx(getattr(row, key) / largest[key], abs=0.01)
            assert len(after) == (row.verdict is Verdict.CANDIDATE)
            if after:
                assert after[0] / whole == pytest.approx(
                    getattr(row, f"separable_{key}") / largest[key], abs=0.01
                )


def test_untrusted_words_are_words(opened: Opener) -> None:
    wicked = f'"><img src=x onerror=alert(1)><script>alert(2)</script>{NASTY}'
    row = replace(
        UNTRUSTED.findings[0],
        name=wicked,
        type_name=wicked,
        reason=wicked,
        code=wicked,
        aliases=(wicked,),
    )
    report = replace(
        UNTRUSTED, model=wicked, findings=(row, UNTRUSTED.findings[1]), not_counted=((wicked, 1),)
    )
    page = opened(
        {
            report: Reporters(
                {wicked}, {f"t.py::{wicked}"}, [*check_limits(report, Budget(params=1))]
            )
        }
    )
    assert page.locator("img, main script, main b:not(.amount b)").count() == 0
    assert names(page)[0] == plain(wicked)
    assert page.title() == f"Depthwise separable candidates of {plain(wicked)}"
    assert page.get_by_role("heading", level=2).inner_text() == plain(wicked)
    page.get_by_role("searchbox").fill("<SCRIPT>")
    assert names(page) == [plain(wicked)]


def test_a_script_of_somebody_else_does_not_run(opened: Opener) -> None:
    page = opened({SMALL: Reporters()})
    page.evaluate(
        "document.body.append(Object.assign(document.createElement('script'), {text: 'window.ran = "
        "1'}))"
    )
    assert page.evaluate("window.ran") is None
    assert any("Content Security Policy" in complaint for complaint in opened.complaints)
    opened.complaints.clear()


def test_without_a_script_the_table_is_whole(opened: Opener) -> None:
    page = opened({MIXED: Reporters()}, java_script_enabled=False)
    assert names(page) == [row.name for row in MIXED.findings]
    assert page.get_by_role("searchbox").count() == 0
    assert page.locator("thead button").count() == 0


def test_two_thousand_convolutions(opened: Opener) -> None:
    page = opened({LARGE: Reporters()})
    assert page.locator(SHOWN).count() == 2000
    header(page, "MACs").get_by_role("button").click()
    first = max(LARGE.findings, key=lambda row: row.macs or 0)
    assert page.locator(SHOWN).first.inner_text() == first.name
    page.get_by_role("searchbox").fill("stage199")
    assert (
        page.get_by_role("status").inner_text() == "11 of 2,000 shown, sorted by MACs, descending"
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_accessible_and_in_its_place(opened: Opener, scheme: str, width: int) -> None:
    page = opened(
        {MIXED: LIMITED, UNTRUSTED: Reporters(), EMPTY: Reporters(), WITHOUT_SHAPES: Reporters()},
        width,
        scheme,
        GROWN,
    )
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    header(page, "params").last.get_by_role("button").click()
    results = axe.Axe().run(page)
    assert [violation["id"] for violation in results.response["violations"]] == []
    luminance = page.evaluate(
        "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"
    )
    assert (max(luminance) < 60) == (scheme == "dark")


def test_no_models(opened: Opener) -> None:
    assert "No model was reported" in opened({}).locator("main").inner_text()
