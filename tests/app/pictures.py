"""Recreates the two pictures of the app in docs/: `python -m tests.app.pictures`.

It draws some pictures first, so that the page looks as it does after an evening's use.
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from tests.app.visitor import ROOT, Visitor, chromium
from tools.app.stack import LocalApp

PROMPTS = (
    "a big yellow star on purple",
    "a small white circle on blue",
    "a big green triangle on black",
    "a big orange circle on cyan",
    "a small pink star on black",
    "a big blue square on yellow",
    "a big red triangle on white",
    "a big cyan star on red",
    "a small yellow circle on green",
)
QUALITY = 80


def main() -> int:
    """Draw the pictures, and write the two screenshots."""
    with sync_playwright() as playwright, LocalApp() as app:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        one = Visitor(browser, app.url)
        one.come_in_as_guest()
        one.choose("Kind", "Clip")
        one.choose("How long", "1 second")
        one.draw("a big pink square moving right, blue background")
        one.choose("Kind", "Picture")
        for prompt in PROMPTS:
            one.draw(prompt)
        session = one.context.storage_state(indexed_db=True)
        card = one.ask("a big red star on blue")
        one.is_drawing(card)
        one.wait_for_pictures()
        one.page.evaluate("scrollTo(0, 0)")
        _keep(one.look("docs"), "app-desk.webp")
        one.finished(card)
        one.close()

        other = Visitor(browser, app.url, phone=True, dark=True, state=session)
        other.arrive()
        other.wait_for_the_form()
        other.tiles.nth(1).click()
        other.wait_for_pictures()
        _keep(other.look("docs"), "app-phone.webp")
        other.close()
    return 0


def _keep(screenshot: Path, name: str) -> None:
    Image.open(screenshot).convert("RGB").save(ROOT / "docs" / name, quality=QUALITY, method=6)


if __name__ == "__main__":
    sys.exit(main())
