"""The page as a browser shows it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.search.report.browser import CHROMIUM, Page, chromium
from tests.search.report.conftest import Searched

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium")

FIRST_OF_FRONT = """(() => {
    const traces = [...document.querySelectorAll('#front .trace.scatter')];
    const front = traces.find((trace) => trace.querySelectorAll('.point').length === COUNT);
    const box = front.querySelector('.point').getBoundingClientRect();
    return [box.x + box.width / 2, box.y + box.height / 2];
})()"""
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with chromium(tmp_path_factory.mktemp("chromium")) as tab:
        yield tab


@pytest.mark.parametrize(("width", "theme"), [(390, "dark"), (1440, "light")])
def test_it_draws_without_complaint_and_fits(
    page: Page, searched: Searched, width: int, theme: str
) -> None:
    page.open(searched.run.report, width, theme=theme)
    assert page.complaints == []
    assert page.js(OVERFLOW) <= 0
    assert page.js("document.querySelectorAll('.plot .main-svg').length") >= 8
    assert page.js("document.documentElement.dataset.theme") == theme
    assert page.js("document.querySelectorAll('#examples svg').length") == 12
    for verdict in ("80%", "99s"):
        assert f"Best within {verdict}" in page.js("document.getElementById('answers').innerText")


def test_hovering_tells_about_a_point_and_clicking_chooses_it(
    page: Page, searched: Searched
) -> None:
    page.open(searched.run.report, 1440)
    last = searched.result.front[-1].id
    page.js("document.getElementById('front').scrollIntoView()")
    x, y = page.js(FIRST_OF_FRONT.replace("COUNT", str(len(searched.result.front))))
    page.point_at(x, y)
    page.wait("document.querySelector('#front .hovertext') !== null")
    assert searched.result.front[0].id in page.js(
        "document.querySelector('#front .hovertext').textContent"
    )
    page.js(f"choose({last!r})")
    assert page.js("document.getElementById('point').value") == last
    assert page.complaints == []


def test_the_theme_can_be_changed(page: Page, searched: Searched, tmp_path: Path) -> None:
    page.open(searched.run.report, 1440)
    before = page.js("getComputedStyle(document.body).backgroundColor")
    page.js("document.getElementById('theme').click()")
    assert page.js("getComputedStyle(document.body).backgroundColor") != before
    page.screenshot(tmp_path / "page.png", whole=False)
    assert (tmp_path / "page.png").read_bytes().startswith(b"\x89PNG")
