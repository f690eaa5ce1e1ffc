"""The page, driven by a real browser with a microphone that plays a recording."""

import asyncio
import base64
import io
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from firefox import Firefox
from live_server import LiveServer, live_server, real_speech, speech_like

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")

FIREFOX = shutil.which("firefox-esr") or shutil.which("firefox")

PULSEAUDIO = shutil.which("pulseaudio")

needs_firefox = pytest.mark.skipif(
    not (FIREFOX and PULSEAUDIO),
    reason="needs firefox and pulseaudio (Debian: apt-get install firefox-esr pulseaudio)",
)
needs_browser = pytest.mark.skipif(
    not (CHROMIUM and DRIVER),
    reason="needs chromium and chromedriver (Debian: apt-get install chromium chromium-driver)",
)

PATIENCE = 300  # seconds

# Presses "save" and catches the file on its way: a promise of it in base64.
SAVE = """
new Promise((done) => {
  const make = URL.createObjectURL;
  URL.createObjectURL = (blob) => {
    const reader = new FileReader();
    reader.onload = () => done(reader.result.split(",")[1]);
    reader.readAsDataURL(blob);
    URL.createObjectURL = make;
    return make.call(URL, blob);
  };
  document.getElementById("save").click();
})
"""


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    with live_server() as server:
        yield server


@needs_browser
@pytest.mark.slow
def test_a_person_talks_and_hears_somebody_else(server: LiveServer, tmp_path: Path) -> None:
    from selenium import webdriver
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.wait import WebDriverWait

    real = real_speech()
    wave = real[0] if real else speech_like(10.0)
    microphone = tmp_path / "microphone.wav"
    # The browser plays the file over and over; with a second of silence between, so that sentences stay apart.
    soundfile.write(microphone, np.concatenate([wave, np.zeros(16_000, np.float32)]), 16_000, subtype="PCM_16")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (
        "--headless=new",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--window-size=1200,1150",
        "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-audio-capture={microphone}",
        f"--user-data-dir={tmp_path / 'profile'}",
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    try:
        browser.set_script_timeout(PATIENCE)
        browser.get(server.http + "/")
        WebDriverWait(browser, PATIENCE).until(
            lambda _: len(browser.find_elements(By.CSS_SELECTOR, "#voice option")) > 1
        )
        browser.find_element(By.CSS_SELECTOR, "#voice option[value=grove]").click()
        browser.find_element(By.ID, "talk").click()
        status = browser.find_element(By.ID, "status")
        WebDriverWait(browser, PATIENCE).until(lambda _: "Speak" in status.text)
        seconds = browser.find_element(By.ID, "seconds")  # of what came back
        WebDriverWait(browser, PATIENCE).until(lambda _: float(seconds.text.split()[0]) > 1.6 * len(wave) / 16_000)
        latency = browser.find_element(By.ID, "latency").text
        browser.get_screenshot_as_file(str(tmp_path / "page.png"))
        browser.find_element(By.ID, "talk").click()
        WebDriverWait(browser, PATIENCE).until(lambda _: "Done" in status.text)
        encoded = browser.execute_async_script(f"{SAVE}.then(arguments[0])")
        complaints = [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    finally:
        browser.quit()
    returned, rate = soundfile.read(io.BytesIO(base64.b64decode(encoded)), dtype="float32")

    assert complaints == []
    assert len(returned) > len(wave) / 16_000 * rate
    assert_is_a_delay(latency)
    if real is None:
        assert np.sqrt(np.square(returned).mean()) > 0.001, "what came back is silence"
    else:
        assert_somebody_else_said(returned, rate, *real)


@needs_firefox
@pytest.mark.slow
def test_firefox_talks_and_plays_a_recording(server: LiveServer, tmp_path: Path) -> None:
    real = real_speech()
    wave = real[0] if real else speech_like(10.0)
    soundfile.write(tmp_path / "recording.wav", wave, 16_000, subtype="PCM_16")

    async def scene() -> tuple[str, str, bytes, list[str]]:
        async with Firefox(str(FIREFOX), str(PULSEAUDIO), tmp_path) as firefox:
            status = "document.getElementById('status').textContent"
            await firefox.open(server.http + "/")
            await firefox.wait_for("document.querySelectorAll('#voice option').length > 1")
            # The microphone: Firefox has no other for tests than one that hums.
            await firefox.evaluate("document.getElementById('talk').click()")
            await firefox.wait_for(f"{status}.includes('Speak')")
            await firefox.wait_for("parseFloat(document.getElementById('seconds').textContent) > 2")
            spoken = await firefox.evaluate("document.getElementById('latency').textContent")
            await firefox.screenshot(tmp_path / "firefox-microphone.png")
            await firefox.evaluate("document.getElementById('talk').click()")
            await firefox.wait_for(f"{status}.includes('Done')")
            # A recording, which passes at the pace of a call.
            await firefox.evaluate("document.getElementById('voice').value = 'grove'")
            await firefox.choose_file("#file", tmp_path / "recording.wav")
            await firefox.wait_for("parseFloat(document.getElementById('seconds').textContent) > 6")
            played = await firefox.evaluate("document.getElementById('latency').textContent")
            await firefox.screenshot(tmp_path / "firefox-recording.png")
            await firefox.wait_for(f"{status}.includes('Done')")
            saved = await firefox.evaluate(SAVE)
            return spoken, played, base64.b64decode(saved), firefox.complaints

    spoken, played, saved, complaints = asyncio.run(scene())
    returned, rate = soundfile.read(io.BytesIO(saved), dtype="float32")
    assert complaints == []
    assert_is_a_delay(spoken)
    assert_is_a_delay(played)
    assert len(returned) / rate == pytest.approx(len(wave) / 16_000, abs=0.5)
    if real is None:
        assert np.sqrt(np.square(returned).mean()) > 0.001, "what came back is silence"
    else:
        assert_somebody_else_said(returned, rate, *real)


def assert_is_a_delay(shown: str) -> None:
    """What the page shows is a time in milliseconds (a second and more only where a machine is very busy)."""
    assert shown.endswith(" ms")
    assert 0 < int(shown.removesuffix(" ms")) < 30_000


def assert_somebody_else_said(returned: np.ndarray, rate: int, wave: np.ndarray, said: str) -> None:
    """Whisper understands what came back, and GE2E no longer hears the speaker of `wave` (16 kHz) in it."""
    import soxr

    from models.registry import PROFILES, resolve
    from models.speaker import GE2E
    from models.whisper import Whisper

    heard = soxr.resample(returned, rate, 16_000).astype(np.float32)
    whisper = Whisper(resolve(PROFILES["embedded"]["whisper"]).path)
    words = set(normal(said))
    text = normal(whisper.transcribe(whisper.encode([heard]))[0])
    found = len(words & set(text)) / len(words)
    # Whisper's smallest model on the baseline's artefacts; noise or silence would give it no word in ten.
    assert found > 0.5, f"Whisper understood {found:.0%} of the words: {' '.join(text)}"

    embedded = GE2E(resolve(PROFILES["embedded"]["speaker"]).path).embed
    half = len(wave) // 2
    first, second, anonymous = embedded([wave[:half], wave[half:], heard])
    assert first @ anonymous < first @ second - 0.1, "the voice is still the speaker's"


def normal(text: str) -> list[str]:
    return "".join(letter if letter.isalpha() else " " for letter in text.lower().replace("'", "")).split()
