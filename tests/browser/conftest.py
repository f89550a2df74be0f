"""A real browser: headless Chromium through selenium, with axe-core's accessibility rules."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

WIDTHS = {"desktop": (1280, 900), "phone": (390, 844)}
SERIOUS = ("serious", "critical")


@pytest.fixture(scope="session")
def open_browser() -> Iterator[Callable[..., Any]]:
    """Opens a window of `desktop` or `phone` width, `dark` or light; all are closed at the end."""
    webdriver = pytest.importorskip("selenium.webdriver", reason='pip install -e ".[browser]"')
    binary = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip("no browser at hand: install chromium and chromium-driver")
    opened = []

    def new(width: str = "desktop", dark: bool = False):
        options = webdriver.ChromeOptions()
        options.binary_location = binary
        flags = ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars", "--disable-gpu"]
        flags += ["--force-dark-mode"] if dark else []
        for flag in flags:
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        window = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
        opened.append(window)
        wide, high = WIDTHS[width]
        metrics = {"width": wide, "height": high, "deviceScaleFactor": 1, "mobile": width == "phone"}
        window.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        window.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
        window.set_page_load_timeout(120)
        return window

    yield new
    for window in opened:
        window.quit()


def console_errors(window) -> list[str]:
    """What the page complained of since the last call."""
    return [entry["message"] for entry in window.get_log("browser") if entry["level"] == "SEVERE"]


def violations(window) -> list[str]:
    """Serious breaches of axe-core's accessibility rules, a line each with the element that breaks it."""
    axe = pytest.importorskip("axe_core_python.base", reason='pip install -e ".[browser]"')
    window.execute_script(axe.AXE_SCRIPT)
    run = "axe.run({resultTypes: ['violations']}).then(arguments[arguments.length - 1])"  # others as counts: faster
    found = window.execute_async_script(run)
    return [
        f"{rule['id']} ({rule['impact']}): {rule['nodes'][0]['html'][:200]}"
        for rule in found["violations"]
        if rule["impact"] in SERIOUS
    ]


def too_wide(window) -> bool:
    """Whether the page has to be scrolled sideways."""
    return window.execute_script("return document.documentElement.scrollWidth > window.innerWidth + 1")


@pytest.fixture
def screenshot(request, tmp_path) -> Callable[[Any, str], Path]:
    """Saves what a window shows into the test's folder, or that of `--screenshots`."""
    folder = Path(request.config.getoption("--screenshots") or tmp_path)

    def save(window, name: str) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{name}.png"
        window.save_screenshot(str(path))
        return path

    return save
