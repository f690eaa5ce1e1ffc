"""The report as a compliance officer meets it: in a browser, and inside MLflow's artifact viewer.

Needs Debian's chromium and chromium-driver. Where they are missing these tests say so, and `test_page` still holds the
same page to its text, its structure and its harmlessness by parsing it.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from release_sample import ReportMaker

from governance.page import report_html, write_report
from governance.tracking import record, tracking_uri

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed; test_page parses the page")
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="chromium is not installed; test_page parses the page"),
]
PATIENCE = 300  # seconds
SWITCHES = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1280,900",
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    options = Options()
    options.binary_location = CHROMIUM or ""
    for switch in (*SWITCHES, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(switch)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


def resize(browser: Any, width: int, height: int = 900) -> None:
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def colour_scheme(browser: Any, scheme: str) -> None:
    feature = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", feature)


@pytest.fixture
def page(browser: Any, make_report: ReportMaker, tmp_path: Path) -> Any:
    """The report of a corpus that is withheld, with a hostile name, in the browser."""
    name = "<script>document.title = 'run'</script><img src=x onerror=\"document.title = 'run'\">"
    path = tmp_path / "report.html"
    path.write_text(report_html(*make_report(good=False, dataset=name)), encoding="utf-8")
    resize(browser, 1280)
    colour_scheme(browser, "light")
    browser.get_log("browser")
    browser.get(path.as_uri())
    return browser


def test_the_decision_is_on_the_first_screen(page: Any) -> None:
    heading = page.find_element("tag name", "h1")
    assert heading.text == "This data must not be released"
    assert heading.rect["y"] < 300
    lead = page.find_element("css selector", ".lead").text.replace("\u00a0", " ")
    assert "confuses speakers in only 33.1 % of comparisons" in lead


def test_nothing_is_fetched_run_or_complained_about(page: Any) -> None:
    assert page.execute_script("return performance.getEntriesByType('resource').length") == 0
    assert page.get_log("browser") == []  # a breach of the content security policy would be here
    assert page.title.startswith("This data must not be released · <script>")


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_the_page_fits_its_window(page: Any, width: int) -> None:
    resize(page, width)
    assert page.execute_script("return document.documentElement.scrollWidth") <= width
    overlapping = page.execute_script(
        "return [...document.querySelectorAll('.rule')].filter(r => r.scrollWidth > r.clientWidth + 1).length"
    )
    assert overlapping == 0


def test_the_reason_of_a_rule_unfolds_without_a_script(page: Any) -> None:
    rule = page.find_element("css selector", ".rule.withhold")
    reason = rule.find_element("css selector", "details p")
    assert not reason.is_displayed()
    rule.find_element("css selector", "summary").click()
    assert reason.is_displayed()
    assert "an attacker will use it on their own recordings" in reason.text


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_word_stands_out_from_its_ground(page: Any, scheme: str) -> None:
    colour_scheme(page, scheme)
    faint = page.execute_script(CONTRAST)
    assert faint == []


def test_every_drawing_is_visible_and_has_words(page: Any) -> None:
    drawings = page.find_elements("css selector", ".drawing")
    assert len(drawings) == 8
    for drawing in drawings:
        assert drawing.find_element("tag name", "svg").rect["height"] > 60
        assert len(drawing.get_attribute("aria-label").split()) > 8


def test_mlflow_shows_the_decision_in_its_own_page(
    browser: Any, make_report: ReportMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException
    from selenium.webdriver.support.ui import WebDriverWait

    report, evidence = make_report(good=False, dataset="sentences")
    write_report(report, evidence, tmp_path / "report")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    store = tracking_uri(tmp_path / "store")
    run_id = record(report, tmp_path / "report", store)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, cwd=tmp_path)
    try:
        wait_for(f"http://127.0.0.1:{port}/health", tmp_path / "log")
        resize(browser, 1400)
        browser.get(f"http://127.0.0.1:{port}/#/experiments/1/runs/{run_id}")
        drawn_again = (NoSuchElementException, StaleElementReferenceException)
        wait = WebDriverWait(browser, PATIENCE, ignored_exceptions=drawn_again)
        wait.until(lambda b: "only 33.1 % of comparisons" in b.find_element("tag name", "body").text)
        wait.until(lambda b: "✕ Withhold · release 2026-11-22" in b.find_element("tag name", "body").text)
        browser.get(f"http://127.0.0.1:{port}/#/experiments/1/runs/{run_id}/artifacts/report.html")
        frame = wait.until(lambda b: b.find_element("css selector", "iframe"))
        assert "sandbox" in frame.get_property("outerHTML")
        browser.switch_to.frame(frame)
        heading = wait.until(lambda b: b.find_element("tag name", "h1").text)
        assert heading == "This data must not be released"
    finally:
        browser.switch_to.default_content()
        browser.get("about:blank")
        os.killpg(server.pid, 15)
        server.wait(PATIENCE)


def wait_for(url: str, log: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=20):
                return
        except OSError:
            time.sleep(0.5)
    pytest.fail(f"MLflow did not start: {log.read_text()[-500:]}")


# Every text on the page whose contrast with the ground behind it is below 4.5 to 1 (WCAG 2.1, level AA).
CONTRAST = """
const numbers = c => c.match(/[\\d.]+/g).map(Number);
const light = c => {
  const [r, g, b] = numbers(c).map(v => { v /= 255; return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const ground = e => {
  for (; e; e = e.parentElement) {
    const c = numbers(getComputedStyle(e).backgroundColor);
    if (c.length === 3 || c[3] > 0) return getComputedStyle(e).backgroundColor;
  }
  return 'rgb(255, 255, 255)';
};
const faint = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const e = walker.currentNode.parentElement;
  if (!walker.currentNode.textContent.trim() || !e.checkVisibility() || e.closest('title')) continue;
  const colour = e.closest('svg') ? getComputedStyle(e).fill : getComputedStyle(e).color;
  const [a, b] = [light(colour), light(ground(e))].sort((x, y) => y - x);
  if ((a + 0.05) / (b + 0.05) < 4.5) faint.push(walker.currentNode.textContent.trim().slice(0, 40) + ' ' + colour);
}
return faint;
"""
