"""One tab of a real browser at a server's pages: going there, waiting, typing, and what it has to say of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException, WebDriverException
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

from tests.runs.chromium import Browser

Value = TypeVar("Value")

DESKTOP, PHONE = (1280, 800), (390, 844)
SECONDS = 20.0


OF_ANOTHER_PAGE = "does not belong to the document"
"""So Chromium's driver says it of an element that was found while a page gave way to another one."""


class Tab:
    """Paths are those of `url`, the server that it looks at."""

    def __init__(self, browser: Browser, url: str) -> None:
        self.browser, self.driver, self.url = browser, browser.driver, url

    def open(self, path: str) -> None:
        """Go to a page; what the browser said before is forgotten.

        By way of an empty page: one that tries again and again to reach its server may ask once more while it is
        left, and that would be told of as the new page's doing.
        """
        self.driver.get("about:blank")
        self.browser.console()
        self.browser.requests()
        self.driver.get(path if path.startswith("http") else self.url + path)

    def look(self, *, dark: bool = False, size: tuple[int, int] = DESKTOP) -> None:
        """As somebody with this screen and these wishes sees it, from now on."""
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": features})
        metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size == PHONE}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    @contextmanager
    def without_scripts(self) -> Iterator[None]:
        self.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
        try:
            yield
        finally:
            self.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})

    def run(self, script: str) -> object:
        return self.browser.run(script)

    def refresh(self) -> None:
        """Have the page ask for itself anew, now and not in two seconds."""
        self.driver.execute_async_script("refresh().then(arguments[0])")

    # --- what is there ---

    @property
    def path(self) -> str:
        return self.driver.current_url.removeprefix(self.url)

    def find(self, css: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, css)

    def all(self, css: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, css)

    def text(self, css: str) -> str:
        """What can be read there; empty when there is no such thing."""
        try:
            return self.find(css).text
        except (NoSuchElementException, StaleElementReferenceException):
            return ""

    def content(self, css: str) -> str:
        """The text as the document has it, with all its spaces."""
        return str(self.find(css).get_property("textContent") or "")

    def value(self, css: str) -> str:
        return str(self.find(css).get_property("value") or "")

    # --- waiting ---

    def wait(self, condition: Callable[[], Value], what: str = "", seconds: float = SECONDS) -> Value:
        """What a condition gives once it holds."""
        gone = (NoSuchElementException, StaleElementReferenceException)
        waiting = WebDriverWait(self.driver, seconds, poll_frequency=0.05, ignored_exceptions=gone)
        return waiting.until(lambda _: condition(), what or "it did not come to pass in time")

    def wait_for(self, text: str, css: str = "main") -> None:
        """Until a text can be read there."""
        self.wait(lambda: text in self.text(css), f"never read: {text}")

    def wait_for_width(self, width: int) -> None:
        self.wait(lambda: self.run("return innerWidth") == width)

    # --- doing ---

    def fill(self, css: str, text: str) -> None:
        field = self.find(css)
        field.clear()
        field.send_keys(text)

    def click(self, css: str) -> None:
        """Once what is there belongs to the page that is there: it may be just about to be another one's."""

        def clicked() -> bool:
            try:
                self.find(css).click()
            except StaleElementReferenceException:
                return False
            except WebDriverException as error:
                if OF_ANOTHER_PAGE not in str(error):
                    raise
                return False
            return True

        self.wait(clicked)

    def press(self, *keys: str) -> None:
        """Keys for whatever has the focus."""
        for key in keys:
            ActionChains(self.driver).send_keys(key).perform()

    def focused(self) -> str:
        """What has the focus, in the words that a screen reader would use: its label, else its text."""
        element = self.driver.switch_to.active_element
        return element.get_attribute("aria-label") or element.accessible_name or element.tag_name

    def tab_to(self, name: str, most: int = 60) -> None:
        """Press Tab until something of this name has the focus."""
        passed = []
        for _ in range(most):
            self.press(Keys.TAB)
            passed.append(self.focused())
            if passed[-1] == name:
                return
        raise AssertionError(f"Tab never came to '{name}', only to {passed}")

    def answer_question(self, *, yes: bool) -> str:
        """Answer the question that a page asks before it goes on; the question."""
        question = self.wait(lambda: self.driver.switch_to.alert)
        text = question.text
        question.accept() if yes else question.dismiss()
        return text
