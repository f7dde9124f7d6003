"""A browser as far as the server can tell one: it asks for pages, keeps cookies, and sends the forms of a page."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from tests.api.serving import Served


class Browser:
    """One visitor."""

    def __init__(self, served: Served) -> None:
        self.client = httpx.Client(
            base_url=served.url, headers={"Accept": "text/html", "Origin": served.url}, verify=False
        )

    @property
    def cookies(self) -> dict[str, str]:
        return dict(self.client.cookies)

    def open(self, path: str, status: int = 200) -> str:
        """The text of a page."""
        response = self.client.get(path)
        assert response.status_code == status, response.text
        assert response.headers["content-type"] == "text/html; charset=utf-8"
        return response.text

    def token(self, path: str = "/login/") -> str:
        """What the forms of a page carry."""
        (token,) = set(re.findall(r'name="csrf" value="([0-9a-f]+)"', self.open(path)))
        return token

    def send(self, path: str, page: str = "/login/", **fields: str) -> httpx.Response:
        """Send a form with the token of a page that was just opened."""
        return self.client.post(path, data={"csrf": self.token(page), **fields})

    def log_in(self, key: str, target: str = "/") -> httpx.Response:
        return self.send("/login/", key=key, next=target)


@contextmanager
def browsing(served: Served) -> Iterator[Browser]:
    browser = Browser(served)
    with browser.client:
        yield browser
