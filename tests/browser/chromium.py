"""A real browser without a window: what it shows, what it asks the network for, and what it complains about."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

SECONDS = 60.0
"""How long a page is waited for: machines that run tests are slow."""
T = TypeVar("T")


class Browser:
    """Chromium, by way of its driver."""

    def __init__(self, folder: Path) -> None:
        from selenium import webdriver

        chromium, driver = map(shutil.which, ("chromium", "chromedriver"))
        assert None not in (chromium, driver), "no browser: apt-get install chromium chromium-driver"
        options = webdriver.ChromeOptions()
        options.binary_location = chromium
        for flag in (
            *("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-sync"),
            *("disable-background-networking", "disable-component-update", "disable-dev-shm-usage"),
            *("hide-scrollbars", "force-device-scale-factor=1", "window-size=1400,1000", f"user-data-dir={folder}"),
        ):
            options.add_argument(f"--{flag}")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
        self.driver.set_page_load_timeout(SECONDS)
        self.driver.set_script_timeout(SECONDS)

    def open(self, address: str | Path) -> None:
        """Open a page; what others said is forgotten."""
        self.driver.get("about:blank")
        for log in ("browser", "performance"):
            self.driver.get_log(log)
        self.driver.get(address.absolute().as_uri() if isinstance(address, Path) else address)

    def requests(self) -> list[str]:
        """What the browser has asked for since the last call, data that pages hold themselves aside."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        asked = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
        addresses = [params["request"]["url"] for params in asked]
        return [address for address in addresses if not address.startswith(("data:", "blob:", "about:"))]

    def complaints(self) -> list[str]:
        """Errors and warnings of the console since the last call."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]

    def run(self, script: str) -> Any:
        """What a script of the page returns."""
        return self.driver.execute_script(script)

    def wait(self, condition: Callable[[], T], what: str) -> T:
        """Wait until something is true."""
        from selenium.common.exceptions import WebDriverException

        deadline = time.monotonic() + SECONDS
        while True:
            try:
                if found := condition():
                    return found
            except WebDriverException as error:  # what was there a moment ago has been drawn anew
                if time.monotonic() > deadline:
                    raise AssertionError(f"the page does not show {what}") from error
            assert time.monotonic() < deadline, f"the page does not show {what}:\n{self.text()[:3000]}"
            time.sleep(0.1)

    def text(self) -> str:
        """All text that is to be seen."""
        return str(self.run("return document.body.innerText"))

    def wait_for_text(self, text: str) -> None:
        """Wait until a text is to be seen."""
        self.wait(lambda: text in self.text(), repr(text))

    def click(self, xpath: str) -> None:
        """Click on what is found at a path, once it is there."""
        from selenium.webdriver.common.by import By

        def click() -> bool:
            element = self.driver.find_element(By.XPATH, xpath)
            self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
            element.click()
            return True

        self.wait(click, xpath)

    def screenshot(self, path: Path, *, width: int = 1400, height: int | None = None) -> None:
        """Write what is to be seen into a PNG file, in few colours: such a file is small.

        Args:
            path: where to.
            width, height: of the window, in pixels; no height: of the whole page.
        """
        self.resize(width, height or 1000)
        if height is None:
            self.resize(width, int(self.run("return document.documentElement.scrollHeight")))
        time.sleep(1.0)  # what is drawn anew in the new size is not to be seen elsewhere
        self.driver.save_screenshot(str(path))
        from PIL import Image

        with Image.open(path) as image:
            few = image.convert("RGB").quantize(128)
        few.save(path, optimize=True)

    def resize(self, width: int, height: int) -> None:
        """Give the window another size, in pixels."""
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False},
        )


@contextmanager
def chromium(folder: Path) -> Iterator[Browser]:
    """A browser with a new profile in that folder."""
    browser = Browser(folder)
    try:
        yield browser
    finally:
        browser.driver.quit()
