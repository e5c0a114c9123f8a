"""A user of the app: Chromium, driven by Playwright through the page's words rather than its selectors."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, BrowserContext, Locator, Page, Request, StorageState, expect

from tools.app.page import WEB
from tools.emulators.install import install

ROOT = Path(__file__).parents[2]
PHONE = {"width": 360, "height": 740}
DESK = {"width": 1280, "height": 860}
FOCUSED = """() => {
  const it = document.activeElement;
  if (it === document.body) return ["", true];
  const name = it.getAttribute("aria-label") ?? it.labels?.[0]?.innerText ?? it.textContent;
  const frames = [it, it.closest(".choice"), it.previousElementSibling].filter((one) => one);
  return [name.trim(), frames.some((one) => getComputedStyle(one).outlineStyle !== "none")];
}"""
"""The name of the focused element, and whether it or a label around or before it is outlined."""
NOTE_WHAT_IS_DRAWN = """
  const note = (job, what, holds) => holds && !(what in job.dataset) && (job.dataset[what] = "");
  new MutationObserver(() => {
    for (const job of document.querySelectorAll(".job")) {
      const shows = (one) => job.querySelector(one)?.checkVisibility();
      note(job, "drawn", job.querySelector(".stage")?.textContent.includes("Drawing"));
      note(job, "previewed", shows("progress") && shows("img.preview"));
    }
  }).observe(document, { subtree: true, childList: true, characterData: true, attributes: true });
"""
"""Marks each job that says that it is being drawn, and each that shows a preview. A fast machine draws in half a
second, less than it takes the browser's driver to look twice.
"""
PATIENCE_MS = 60_000
"""A picture takes two seconds on a free core; tests share theirs."""


def screenshots() -> Path:
    """Return the folder that CI keeps, else outputs/screenshots."""
    kept = os.environ.get("CI_ARTIFACTS")
    folder = Path(kept) / "screenshots" if kept else ROOT / "outputs" / "screenshots"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def chromium() -> str | None:
    """Return Debian's Chromium, or a browser of its kind on this machine."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next((found for name in names if (found := shutil.which(name))), None)


class Visitor:
    """One person with one browser window: what they see, and what they do."""

    def __init__(
        self,
        browser: Browser,
        url: str,
        *,
        phone: bool = False,
        dark: bool = False,
        state: StorageState | None = None,
    ) -> None:
        self.url = url
        self.name = f"{'phone' if phone else 'desk'}-{'dark' if dark else 'light'}"
        self.context: BrowserContext = browser.new_context(
            viewport=PHONE if phone else DESK,  # type: ignore[arg-type]  # a TypedDict of two numbers
            device_scale_factor=2 if phone else 1,
            has_touch=phone,
            is_mobile=phone,
            color_scheme="dark" if dark else "light",
            reduced_motion="reduce",
            storage_state=state,
        )
        self.context.set_default_timeout(PATIENCE_MS)
        self.context.add_init_script(NOTE_WHAT_IS_DRAWN)
        self.page: Page = self.context.new_page()
        self.mistakes: list[str] = []
        self.page.on("pageerror", lambda error: self.mistakes.append(str(error)))
        self.streams: set[Request] = set()
        """The page's open requests that listen to documents."""
        self.page.on("request", self._begun)
        self.page.on("requestfinished", self._ended)
        self.page.on("requestfailed", self._ended)

    def _begun(self, request: Request) -> None:
        if "/Listen/channel" in request.url:
            self.streams.add(request)

    def _ended(self, request: Request) -> None:
        self.streams.discard(request)

    def close(self) -> None:
        """Close the window; an error in the page's own code fails the test."""
        self.context.close()
        assert self.mistakes == []

    # -- coming in

    def arrive(self) -> None:
        self.page.goto(self.url)
        expect(self.page.locator("#starting")).to_be_hidden(timeout=PATIENCE_MS)

    def come_in_as_guest(self) -> None:
        self.arrive()
        self.page.get_by_role("button", name="Continue as a guest").click()
        self.wait_for_the_form()

    def knock(self, email: str, password: str, button: str) -> None:
        """Fill in the sign-in form's two fields, and press one of its buttons."""
        door = self.page.locator("#signin")
        door.get_by_label("E-mail").fill(email)
        door.get_by_label("Password").fill(password)
        door.get_by_role("button", name=button, exact=True).click()

    def wait_for_the_form(self) -> None:
        expect(self.page.locator("#tasks")).to_be_visible(timeout=PATIENCE_MS)
        expect(self.page.locator("#create")).to_be_enabled(timeout=PATIENCE_MS)
        expect(self.page.locator("#more")).to_be_enabled(timeout=PATIENCE_MS)  # the history has been read

    # -- asking

    def choose(self, group: str, name: str) -> None:
        """Select a radio button by its group's and its own accessible name."""
        self.page.get_by_role("group", name=group, exact=True).get_by_role("radio", name=name, exact=True).check()

    def ask(self, prompt: str) -> Locator:
        """Write the prompt, look at the price, press Create, and return the card of the job."""
        if prompt:
            self.page.get_by_label("Your words").fill(prompt)
        expect(self.page.locator("#photo.sending, #price[aria-busy]")).to_have_count(0, timeout=PATIENCE_MS)
        self.page.locator(".job").evaluate_all("(all) => all.forEach((one) => one.setAttribute('data-earlier', ''))")
        self.page.get_by_role("button", name="Create", exact=True).click()
        return self.page.locator(".job:not([data-earlier])").first

    def is_drawing(self, card: Locator) -> None:
        """Wait until the job is being drawn, or was."""
        expect(card).to_have_attribute("data-drawn", "", timeout=PATIENCE_MS)

    def finished(self, card: Locator) -> None:
        expect(card.locator(".stage")).to_have_text("Ready", timeout=PATIENCE_MS)

    def draw(self, prompt: str) -> Locator:
        """Draw a picture, from its prompt to its place in the history."""
        before = self.tiles.count()
        card = self.ask(prompt)
        self.finished(card)
        expect(self.tiles).to_have_count(before + 1, timeout=PATIENCE_MS)
        return card

    def tab_to(self, name: str, *, back: bool = False) -> None:
        """Press Tab until the element with this accessible name has the focus; check that each stop is visible."""
        for _ in range(60):
            self.page.keyboard.press("Shift+Tab" if back else "Tab")
            found, seen = self.page.evaluate(FOCUSED)
            assert seen, f"nobody sees that {found!r} has the focus"
            if found == name:
                return
        raise AssertionError(f"no key leads to {name!r}")

    # -- waiting

    def wait_until(self, done: Callable[[], bool], what: str) -> None:
        """Wait until `done` returns true, while the browser's events are handled."""
        deadline = time.monotonic() + 1.5 * PATIENCE_MS / 1000
        while not done():
            assert time.monotonic() < deadline, f"never came: {what}"
            self.page.wait_for_timeout(200)

    # -- looking

    @property
    def tiles(self) -> Locator:
        return self.page.locator("#grid li:visible .tile")

    @property
    def credits(self) -> int:
        expect(self.page.locator("#credits")).to_be_visible(timeout=PATIENCE_MS)
        return int(self.page.locator("#credits-count").inner_text())

    @property
    def viewer(self) -> Locator:
        return self.page.locator("#viewer")

    def open_first(self) -> Locator:
        """Open the first picture of the history, and return the dialog."""
        self.tiles.first.click()
        expect(self.viewer).to_be_visible()
        return self.viewer

    def open_result(self, card: Locator) -> Locator:
        """Open the result of a finished job, and return the dialog."""
        card.get_by_role("button", name="Open").click()
        expect(self.viewer).to_be_visible()
        return self.viewer

    def start_over(self) -> None:
        """Return to the page as it is after a visit, whatever is open."""
        while self.page.locator("dialog[open]").count():
            self.page.keyboard.press("Escape")
        self.choose("Kind", "Picture")

    def wait_for_pictures(self) -> None:
        """Wait until every visible picture has been loaded."""
        self.page.wait_for_function(
            """() => [...document.images].filter((image) => image.src && image.checkVisibility())
              .every((image) => image.complete && image.naturalWidth > 0)""",
            timeout=PATIENCE_MS,
        )

    def look(self, name: str, *, whole: bool = False) -> Path:
        """Keep a screenshot, and check that nothing overflows the right edge."""
        self.fits()
        path = screenshots() / f"{name}-{self.name}.png"
        self.page.screenshot(path=path, full_page=whole)
        return path

    def fits(self) -> None:
        wide, window = self.page.evaluate(
            "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
        )
        assert wide <= window, f"the page is {wide} px wide in a window of {window}"
        for wide, window in self.page.eval_on_selector_all(
            "dialog[open]", "(all) => all.map((one) => [one.scrollWidth, one.clientWidth])"
        ):
            assert wide <= window, f"what is in a dialog is {wide} px wide, and the dialog {window}"

    def is_accessible(self) -> None:
        """Check that axe-core finds nothing wrong by WCAG 2.2 AA and its best practices."""
        self.page.evaluate((install(WEB, development=True) / "axe-core" / "axe.min.js").read_text())
        found: list[dict[str, Any]] = self.page.evaluate("axe.run().then(({ violations }) => violations)")
        wrong = [
            f"{one['id']}: {one['help']}: {node['html'][:200]} {node.get('failureSummary', '')[:300]}"
            for one in found
            for node in one["nodes"]
        ]
        assert wrong == [], json.dumps(wrong, indent=1)

    def listen(self) -> None:
        """Begin to record what a screen reader is told."""
        self.page.evaluate(
            """() => {
              window.heard = [];
              new MutationObserver(() => window.heard.push(document.getElementById("said").textContent))
                .observe(document.getElementById("said"), { childList: true, characterData: true, subtree: true });
            }"""
        )

    @property
    def heard(self) -> list[str]:
        said: list[str] = self.page.evaluate("window.heard")
        return said
