"""Every page of the site, opened in a real browser at the width of a screen and of a phone.

`make site` makes the pages; without them, or without a Chromium, nothing is tested.
"""

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "photo"))
from test_viewer_in_browser import CHROME, Browser  # noqa: E402

pytestmark = pytest.mark.slow
SITE = ROOT / ".site"
PAGES = sorted(page.relative_to(SITE).as_posix() for page in SITE.rglob("*.html"))
PAGES = [page for page in PAGES if "_" not in page.split("/")[0]]
FAULTS = """(async () => {
    for (const part of document.querySelectorAll("details, img[loading=lazy]")) {
        part.open = true;
        part.loading = "eager";
    }
    const shown = [...document.querySelectorAll("main img")];
    await Promise.race([
        Promise.allSettled(shown.map(image => image.decode())),
        new Promise(done => setTimeout(done, 5000)),
    ]);
    const broken = shown.filter(image => image.naturalWidth === 0).map(image => image.alt);
    const says = "img, svg, iframe, canvas, table, input, video";
    const empty = [...document.querySelectorAll("main .cell_output")].filter(
        output => !output.innerText.trim() && !output.querySelector(says)
    ).map(output => output.outerHTML.slice(0, 200));
    const page = document.documentElement;
    const wide = [page.scrollWidth - page.clientWidth].filter(more => more > 1);
    return JSON.stringify({broken, empty, wide});
})()"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if CHROME is None:
        pytest.skip("no Chromium: install it, or name one in the environment variable CHROME")
    started = Browser(tmp_path_factory.mktemp("profile"))
    yield started
    started.close()


@pytest.mark.skipif(not PAGES, reason="no pages: make site")
@pytest.mark.parametrize("width", [1400, 390])
@pytest.mark.parametrize("page", PAGES or ["none"])
def test_a_page_has_no_empty_output_no_broken_picture_and_fits_its_width(browser, page, width):
    size = dict(width=width, height=900, deviceScaleFactor=1, mobile=width < 500)
    browser("Emulation.setDeviceMetricsOverride", **size)
    browser.load(SITE / page)
    assert json.loads(browser.js(FAULTS)) == dict(broken=[], empty=[], wide=[])


@pytest.mark.skipif(not PAGES, reason="no pages: make site")
def test_the_gallery_shows_every_figure():
    figures = list((ROOT / "reports" / "figures").glob("*/*"))
    assert (SITE / "docs" / "gallery.html").read_text().count("<img") == len(figures)
