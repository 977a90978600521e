"""The page in a browser: light and dark, wide and narrow, without an error and without scrolling sideways."""

import base64
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sparring import report
from sparring.report import attacked, publish

from .factory import examples, record, three, write_run
from .richer import two
from .test_flow_report import flows
from .test_text_diffs import HOSTILE, account, text

ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

SMALLEST_TEXT = """
const size = (svg, text) => parseFloat(getComputedStyle(text).fontSize)
  * svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;
const plots = [...document.querySelectorAll('svg.plot')];
return Math.min(20, ...plots.flatMap(svg => [...svg.querySelectorAll('text')].map(text => size(svg, text))));
"""
"""The font size of the smallest text in any plot, in CSS pixels as shown."""

LOWEST_CONTRAST_IN_HEAT = """
const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
const paper = getComputedStyle(document.body).backgroundColor;
const linear = v => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
const luminance = (...colours) => {
  colours.forEach(c => { canvas.fillStyle = c; canvas.fillRect(0, 0, 1, 1); });
  return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3)
    .reduce((sum, v, i) => sum + linear(v) * [.2126, .7152, .0722][i], 0);
};
const cells = [...document.querySelectorAll('td.heat')];
cells.slice(0, 1).forEach(cell => cell.style.setProperty('--heat', '100%'));
return Math.min(21, ...cells.map(cell => {
  const style = getComputedStyle(cell);
  const ends = [luminance(style.color), luminance(paper, style.backgroundColor)];
  return (Math.max(...ends) + .05) / (Math.min(...ends) + .05);
}));
"""
"""The lowest contrast of a number with the colour of its cell, where one cell is as hot as a cell can be."""

LOWEST_CONTRAST = """
const linear = v => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
const luminance = colour => colour.match(/[\\d.]+/g).slice(0, 3)
  .reduce((sum, v, i) => sum + linear(v) * [.2126, .7152, .0722][i], 0);
const paper = luminance(getComputedStyle(document.body).backgroundColor);
const contrast = l => (Math.max(l, paper) + .05) / (Math.min(l, paper) + .05);
const drawn = [...document.querySelectorAll('svg text')].map(e => getComputedStyle(e).fill);
const written = [...document.querySelectorAll('p, td, th, h1, h2, h3, dd span, figcaption, a, del, small, .run b')];
return Math.min(...drawn.concat(written.map(e => getComputedStyle(e).color)).map(c => contrast(luminance(c))));
"""
"""The lowest contrast ratio of any text with the page, by the formula of WCAG 2."""

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("needs chromium and chromedriver on the PATH")
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in (*ARGUMENTS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield browser
    browser.quit()


@pytest.fixture(scope="module")
def addresses(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("report")
    runs = three(folder)
    long = record("a-system-with-a-name-that-never-seems-to-end" * 2, norm="l2", eps=1.0)
    long["data"]["classes"] = ["unbreakable" * 4] * 10
    long["command"] = "sparring " + "x" * 300
    odd = [write_run(folder / "long", long, examples()), write_run(folder / "empty", {"status": "running"})]
    detectors = [write_run(folder / f"flow{k}", flows(worst=worst, seed=k)) for k, worst in enumerate((0.8, 0.5))]
    texts = [
        text(),
        text(original="שלום " * 60, after="שלום gr\u0435at\u200b " + HOSTILE),
        text(after="unbreakable" * 40),
    ]
    publish.replace(folder / "texts.html", publish.html(attacked.assemble(account(texts=texts, warnings=[HOSTILE]))))
    return {
        "one": report.write(runs[1:2], folder / "one").html,
        "three": report.write(runs, folder / "three").html,
        "full": report.write(two(folder / "full"), folder / "everything").html,
        "odd": report.write([runs[0], *odd], folder / "odd").html,
        "flows": report.write(detectors, folder / "flows").html,
        "mixed": report.write([runs[1], detectors[0]], folder / "mixed").html,
        "texts": folder / "texts.html",
    }


@pytest.mark.parametrize("width", [1200, 360])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["one", "three", "odd", "full", "flows", "mixed", "texts"])
def test_page(browser: Any, addresses: dict[str, Path], tmp_path: Path, name: str, scheme: str, width: int) -> None:
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    browser.get(addresses[name].as_uri())
    _keep_picture(browser, f"report-{name}-{scheme}-{width}.png", tmp_path)

    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
    assert browser.execute_script("return innerWidth") == width
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    loaded = "return performance.getEntriesByType('resource').map(e => e.name).filter(n => !n.startsWith('data:'))"
    assert browser.execute_script(loaded) == []
    flat = """return [...document.querySelectorAll('svg')].filter(s => s.checkVisibility())
        .map(s => s.getBoundingClientRect()).filter(r => !(r.width > 0 && r.height > 0)).length"""
    assert browser.execute_script(flat) == 0
    broken = "return [...document.images].filter(i => !(i.complete && i.naturalWidth)).length"
    assert browser.execute_script(broken) == 0
    light = browser.execute_script("return getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0] > 128")
    assert light == (scheme == "light")
    assert browser.execute_script(SMALLEST_TEXT) >= 10
    assert browser.execute_script(LOWEST_CONTRAST) >= 4.5
    assert browser.execute_script(LOWEST_CONTRAST_IN_HEAT) >= 4.5
    hidden = """return [...document.querySelectorAll('.scroll, pre')].filter(e => e.scrollWidth > e.clientWidth
        && getComputedStyle(e).overflowX !== 'auto').length"""
    assert browser.execute_script(hidden) == 0


def _keep_picture(browser: Any, name: str, folder: Path) -> None:
    """A picture of the whole page, in the folder that SPARRING_SCREENSHOTS names or in this one."""
    folder = Path(os.environ.get("SPARRING_SCREENSHOTS", folder))
    folder.mkdir(parents=True, exist_ok=True)
    extent = browser.execute_script("const e = document.documentElement; return [e.clientWidth, e.scrollHeight]")
    clip = {"x": 0, "y": 0, "width": extent[0], "height": min(extent[1], 16000), "scale": 1}
    shot = browser.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
    (folder / name).write_bytes(base64.b64decode(shot["data"]))
