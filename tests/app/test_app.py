"""Every path through the app as a user takes it: by touch on a phone, by mouse and keyboard, in light and dark."""

from __future__ import annotations

import io
import json
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, FilePayload, Locator, Route, expect

from tests.app.history import COUNT, Wire, fill, packed
from tests.app.visitor import PATIENCE_MS, Visitor
from tools.app.stack import LocalApp
from worker.core.config import REPOSITORY

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
Arrive = Callable[..., Visitor]
KB = 1000


@pytest.fixture(scope="module")
def regular(app: LocalApp, browser: Browser) -> Iterator[Visitor]:
    """Yield a visitor at a desk for the whole module, so that not every test has to draw a picture first."""
    one = Visitor(browser, app.url)
    one.come_in_as_guest()
    yield one
    one.close()


@pytest.fixture
def guest(regular: Visitor) -> Visitor:
    regular.start_over()
    return regular


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a user's own photo: a blue field with a white circle, larger than the demo model draws."""
    across, down = np.meshgrid(np.linspace(-1, 1, 640), np.linspace(-1, 1, 480))
    pixels = np.full((480, 640, 3), (40, 90, 200), np.uint8)
    pixels[across**2 + (down * 0.75) ** 2 < 0.2] = 255
    path = tmp_path_factory.mktemp("photos") / "holiday.png"
    Image.fromarray(pixels).save(path)
    return path


def documents(app: LocalApp) -> list[dict[str, Any]]:
    """Return all generations of all users, the newest first."""
    found = [one.to_dict() for one in app.firebase.documents.collection_group("files").stream()]
    return sorted(found, key=lambda one: one["created_at"], reverse=True)


def newest(app: LocalApp, prompt: str) -> dict[str, Any]:
    """Return the newest generation of this prompt; the newest of all may be another visitor's."""
    return next(one for one in documents(app) if prompt_of(one) == prompt)


def prompt_of(document: dict[str, Any]) -> str:
    """Return what was asked for; an order slip does not say it yet."""
    return str(document.get("request_data", {}).get("prompt", ""))


class TestComingIn:
    @pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
    def test_the_door_is_accessible_and_fits_a_phone(self, visitor: Arrive, dark: bool) -> None:
        one = visitor(phone=True, dark=dark)
        one.arrive()
        one.look("sign-in")
        one.is_accessible()

    def test_an_account_is_made_left_and_entered_again(self, visitor: Arrive) -> None:
        one = visitor()
        one.arrive()
        page = one.page
        one.knock("alice@example.com", "correct horse", "Create an account")
        one.wait_for_the_form()
        page.get_by_label("Your words").fill("nobody else's affair")
        page.get_by_role("button", name="Account").click()
        page.get_by_role("button", name="Sign out").click()
        one.knock("alice@example.com", "wrong horse", "Sign in")
        expect(page.locator("#signin-error")).to_have_text("Address and password do not belong together.")
        page.locator("#password").fill("correct horse")
        page.locator("#password").press("Enter")
        one.wait_for_the_form()
        expect(page.get_by_label("Your words")).to_have_value("")
        page.reload()
        one.wait_for_the_form()


class TestDrawing:
    def test_a_picture_is_drawn_under_ones_eyes(self, guest: Visitor, app: LocalApp) -> None:
        """Size, style and number are as chosen; progress is shown and announced; the result opens; it costs
        what was shown.
        """
        expect(guest.page.locator("#price")).to_contain_text("credit", timeout=PATIENCE_MS)
        before = guest.credits
        guest.listen()
        guest.choose("Shape", "Portrait, 3:4")
        guest.choose("Style", "Night")
        guest.choose("How many", "4")  # two may be drawn before progress is written for the first time
        card = guest.ask("a big red star")
        price = int(guest.page.locator("#price").inner_text().split()[0])
        guest.is_drawing(card)
        expect(card).to_have_attribute("data-previewed", "", timeout=PATIENCE_MS)
        guest.look("drawing")
        guest.is_accessible()
        guest.finished(card)
        expect(guest.tiles).to_have_count(1, timeout=PATIENCE_MS)
        (made,) = [one for one in documents(app) if prompt_of(one).startswith("a big red star")]
        assert made["request_data"]["style"] == "Night"
        files = made["generation_data"]["files"]
        assert [(one["width"], one["height"]) for one in files] == [(216, 288)] * 4
        assert [text.split(":")[0] for text in guest.heard][-1] == "Ready"
        assert {"Drawing", "Half done"} & {text.split(":")[0] for text in guest.heard}
        expect(guest.page.locator("#credits-count")).to_have_text(str(before - price), timeout=PATIENCE_MS)
        guest.choose("Shape", "Square, 1:1")
        guest.choose("Style", "None")
        guest.choose("How many", "1")

    def test_a_result_opens_large_with_all_its_pictures(self, guest: Visitor) -> None:
        guest.choose("Shape", "Portrait, 3:4")
        guest.choose("How many", "2")
        guest.draw("a big blue star")
        guest.choose("Shape", "Square, 1:1")
        guest.choose("How many", "1")
        viewer = guest.open_first()
        guest.wait_for_pictures()
        assert viewer.locator("#viewer-stage img").last.evaluate("(image) => image.naturalWidth") == 216
        first = viewer.locator("#viewer-stage img").last.get_attribute("src")
        viewer.get_by_role("button", name="Picture 2 of 2").click()
        assert viewer.locator("#viewer-stage img").last.get_attribute("src") != first
        guest.page.keyboard.press("ArrowLeft")
        assert viewer.locator("#viewer-stage img").last.get_attribute("src") == first
        guest.wait_for_pictures()
        guest.is_accessible()
        guest.look("viewer")
        guest.page.keyboard.press("Escape")
        expect(viewer).to_be_hidden()
        expect(guest.tiles.first).to_be_focused()

    def test_the_price_that_is_seen_is_what_is_held(self, guest: Visitor, app: LocalApp) -> None:
        """Not the dearest possible price. An unseen price is shown first, and a request without one does not start."""
        page = guest.page
        page.get_by_label("Your words").fill("a small pink circle on blue")
        guest.context.route("**/us-central1/quote", lambda route: route.abort())
        guest.choose("Kind", "Clip")
        guest.choose("How long", "1 second")
        create = page.get_by_role("button", name="Create", exact=True)
        create.click()
        expect(page.locator("#compose-error")).not_to_be_empty(timeout=PATIENCE_MS)
        guest.context.unroute("**/us-central1/quote")
        before = guest.credits
        create.click()
        expect(page.locator("#compose-error")).to_contain_text("Press again if that is fine.", timeout=PATIENCE_MS)
        expect(create).to_be_focused()
        expect(page.locator(".job:not(.over)")).to_have_count(0)
        seen = int((page.locator("#price").inner_text()).split()[0])
        expect(page.locator("#price-left")).to_have_text(f"{before} left")
        guest.is_accessible()
        guest.look("price")
        page.keyboard.press("Enter")
        card = page.locator(".job").first
        guest.is_drawing(card)
        expect(page.locator("#credits-count")).to_have_text(str(before - seen), timeout=PATIENCE_MS)
        guest.finished(card)
        made = newest(app, "a small pink circle on blue")
        hold = app.firebase.documents.document(f"wallets/{made['user_id']}/holds/{made['file_uid']}").get().to_dict()
        assert hold["credits"] == seen

    def test_a_lost_connection_loses_no_job(self, guest: Visitor) -> None:
        """It is cut while a clip is drawn: the page says so, and shows the clip once it is back."""
        guest.choose("Kind", "Clip")
        guest.choose("How long", "2 seconds")
        card = guest.ask("a big blue square moving left, yellow background")
        stages = card.locator(".stage")
        guest.is_drawing(card)
        stages.evaluate(
            """(line) => {
              window.stages = [];
              new MutationObserver(() => window.stages.push(line.textContent)).observe(line, { childList: true });
            }"""
        )
        guest.context.set_offline(True)
        expect(stages).to_have_text("No connection. It goes on without you.", timeout=PATIENCE_MS)
        guest.look("offline")
        guest.context.set_offline(False)
        guest.finished(card)
        told: list[str] = guest.page.evaluate("window.stages")
        assert {text.split(" ·")[0] for text in told} <= {
            "Drawing",
            "Almost there",
            "No connection. It goes on without you.",
            "Ready",
        }

    def test_a_cancelled_job_stops_and_costs_nothing(self, guest: Visitor) -> None:
        guest.choose("Kind", "Clip")
        guest.choose("How long", "5 seconds")
        before = guest.credits
        card = guest.ask("a small green circle moving right")
        guest.is_drawing(card)
        card.get_by_role("button", name="Cancel").click()
        expect(card.locator(".stage")).to_have_text("Cancelled.", timeout=PATIENCE_MS)
        expect(card.get_by_role("button", name="Try again")).to_be_visible()
        expect(guest.page.locator("#credits-count")).to_have_text(str(before), timeout=PATIENCE_MS)
        card.get_by_role("button", name="Put away").click()
        expect(card).to_have_count(0)

    def test_what_is_deleted_on_another_phone_while_it_is_drawn_is_drawn_no_further(
        self, guest: Visitor, app: LocalApp
    ) -> None:
        guest.choose("Kind", "Clip")
        guest.choose("How long", "5 seconds")
        card = guest.ask("a small pink circle moving left")
        guest.is_drawing(card)
        made = newest(app, "a small pink circle moving left")
        app.firebase.documents.document(f"generations/{made['user_id']}/files/{made['file_uid']}").delete()
        expect(card.locator(".stage")).to_have_text("Deleted.", timeout=PATIENCE_MS)
        card.get_by_role("button", name="Put away").click()

    def test_a_job_is_found_again_after_the_page_was_closed(self, guest: Visitor) -> None:
        count = guest.tiles.count()
        _drawing(guest, "a yellow square moving left, purple background")  # not finished before the page is back
        guest.page.reload()
        card = guest.page.locator(".job").first
        expect(card.locator(".job-name")).to_have_text("a yellow square moving left, purple background")
        guest.finished(card)
        expect(guest.tiles).to_have_count(count + 1, timeout=PATIENCE_MS)

    def test_a_clip_has_a_poster_and_plays(self, guest: Visitor) -> None:
        guest.choose("Kind", "Clip")
        guest.choose("How long", "1 second")
        viewer = guest.open_result(guest.draw("a big red star moving right, blue background"))
        video = viewer.locator("video")
        assert "/thumbs/" in (video.get_attribute("poster") or "").replace("%2F", "/")
        guest.page.wait_for_function("document.querySelector('#viewer-stage video').readyState >= 2")
        assert video.evaluate("(video) => video.duration") == pytest.approx(1, abs=0.3)
        guest.look("clip")
        viewer.get_by_role("button", name="Close").click()

    def test_what_is_wrong_is_said_in_plain_words(self, guest: Visitor, tmp_path: Path) -> None:
        page = guest.page
        guest.choose("Kind", "Repaint a part")
        guest.ask("a red star")
        expect(page.locator("#compose-error")).to_have_text("Choose a photo first.")
        expect(page.get_by_label("Choose a photo").last).to_be_focused()
        (tmp_path / "letter.png").write_text("Dear all, this is a letter.")
        guest.choose("Kind", "From a photo")
        page.locator("#photo-file").set_input_files(tmp_path / "letter.png")
        expect(page.locator("#photo-name")).to_have_text("letter.png")
        card = guest.ask("a red star")
        expect(card.locator(".stage")).to_have_text(
            "That file is not a picture this app can read. Try a JPEG or PNG.", timeout=PATIENCE_MS
        )


class TestWithoutAMouse:
    def test_from_the_door_to_a_saved_favourite(self, visitor: Arrive) -> None:
        """By keyboard alone; the focus is always visible."""
        one = visitor()
        one.arrive()
        page = one.page
        one.tab_to("Continue as a guest")
        page.keyboard.press("Enter")
        one.wait_for_the_form()
        one.tab_to("Picture")
        page.keyboard.press("ArrowRight")
        expect(page.get_by_role("radio", name="From a photo", exact=True)).to_be_focused()
        one.tab_to("Choose a photo")
        one.tab_to("From a photo", back=True)
        page.keyboard.press("ArrowLeft")
        one.tab_to("Your words")
        page.keyboard.type("a big red star on blue")
        one.tab_to("1")
        one.tab_to("Create")
        expect(page.locator("#price[aria-busy]")).to_have_count(0, timeout=PATIENCE_MS)
        page.keyboard.press("Enter")
        card = page.locator(".job").first
        one.finished(card)
        one.tab_to("Open")
        page.keyboard.press("Enter")
        expect(one.viewer).to_be_visible()
        one.tab_to("Favourite")
        page.keyboard.press("Space")
        expect(page.locator("#viewer-favourite")).to_have_attribute("aria-pressed", "true")
        page.keyboard.press("Escape")
        expect(card.get_by_role("button", name="Open")).to_be_focused()


class TestPhotos:
    def test_a_part_of_a_photo_is_marked_by_finger_and_repainted(
        self, visitor: Arrive, app: LocalApp, photo: Path
    ) -> None:
        one = visitor(phone=True, dark=True)
        one.come_in_as_guest()
        one.look("studio", whole=True)
        for kind in ("From a photo", "Enlarge", "Clip", "Photo to clip", "Repaint a part"):
            one.choose("Kind", kind)
            one.fits()
            one.is_accessible()
        one.page.locator("#photo-file").set_input_files(photo)
        one.page.get_by_role("button", name="Mark the part to repaint").tap()
        dialog = one.page.get_by_role("dialog")
        board = dialog.locator("#mask-board")
        box = board.bounding_box()
        assert box is not None
        fingers = one.context.new_cdp_session(one.page)

        def touch(kind: str, *share: float) -> None:
            at = [{"x": box["x"] + share[0] * box["width"], "y": box["y"] + share[1] * box["height"]}] if share else []
            fingers.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": at})

        touch("touchStart", 0.4, 0.5)
        for step in range(1, 9):
            touch("touchMove", 0.4 + step * 0.025, 0.5)
        touch("touchEnd")
        one.look("mask")
        one.is_accessible()
        dialog.get_by_role("button", name="Done").tap()
        expect(one.page.get_by_role("button", name="Change the marked part")).to_be_visible()
        card = one.ask("a red star on blue")
        one.finished(card)
        one.look("repainted", whole=True)
        asked = newest(app, "a red star on blue")["request_data"]
        assert asked["task_type"] == "inpaint"
        mask = Image.open(io.BytesIO(app.firebase.objects.blob(asked["mask_url"].split("/", 3)[3]).download_as_bytes()))
        marked = np.asarray(mask.convert("L"), dtype=float) / 255
        assert mask.size == (640, 480)
        assert marked[240, 256:384].min() > 0.9, "where the finger went"
        assert marked[240, :192].max() < 0.1, "left of it"
        assert marked[:168].max() < 0.1, "above it"

    def test_a_part_is_marked_with_keys_alone(self, guest: Visitor, photo: Path) -> None:
        page = guest.page
        guest.choose("Kind", "Repaint a part")
        page.locator("#photo-file").set_input_files(photo)
        opener = page.get_by_role("button", name="Mark the part to repaint")
        opener.focus()
        page.keyboard.press("Enter")
        board = page.locator("#mask-board")
        expect(board).to_be_focused()
        expect(page.locator("#mask-done")).to_be_disabled()
        for key in ("ArrowLeft", "ArrowLeft", " ", "ArrowDown", " "):
            page.keyboard.press(key)
        expect(page.locator("#mask-done")).to_be_enabled()
        guest.look("mask-keys")
        page.locator("#mask-undo").press("Enter")
        page.locator("#mask-done").press("Enter")
        expect(page.locator("#masker")).to_be_hidden()
        changed = page.get_by_role("button", name="Change the marked part")
        expect(changed).to_be_focused()
        alpha = page.locator("#photo-veil").evaluate(
            "(c) => [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data].filter((_, i) => i % 4 === 3)"
        )
        assert 0.005 < np.count_nonzero(alpha) / len(alpha) < 0.05, "one stroke is left"

    def test_a_photo_is_drawn_anew_in_its_own_shape(self, guest: Visitor, app: LocalApp, photo: Path) -> None:
        page = guest.page
        guest.choose("Kind", "From a photo")
        page.locator("#photo-file").set_input_files(photo)
        expect(page.get_by_alt_text("The chosen photo")).to_be_visible()
        strength = page.get_by_label("How much may change")
        strength.fill("80")
        expect(page.locator("#price")).to_contain_text("credit", timeout=PATIENCE_MS)
        guest.is_accessible()
        guest.look("photo")
        viewer = guest.open_result(guest.draw("a big green triangle on black"))
        guest.wait_for_pictures()
        guest.look("from-a-photo")
        made = newest(app, "a big green triangle on black")
        asked, file = made["request_data"], made["generation_data"]["files"][0]
        assert (asked["task_type"], asked["strength"]) == ("img2img", 0.8)
        sent = app.firebase.objects.blob(asked["image_url"].split("/", 3)[3]).download_as_bytes()
        assert sent == photo.read_bytes()
        assert file["width"] / file["height"] == pytest.approx(640 / 480, rel=0.05)
        viewer.get_by_role("button", name="Close").click()

    def test_a_photo_becomes_a_clip_that_plays(self, guest: Visitor, app: LocalApp, photo: Path) -> None:
        page = guest.page
        guest.choose("Kind", "Photo to clip")
        page.locator("#photo-file").set_input_files(photo)
        guest.choose("How long", "1 second")
        viewer = guest.open_result(guest.draw("a big white circle moving right, blue background"))
        video = viewer.locator("video")
        poster = video.get_attribute("poster") or ""
        assert "/thumbs/" in poster.replace("%2F", "/")
        guest.wait_for_pictures()
        page.wait_for_function("document.querySelector('#viewer-stage video').readyState >= 2")
        guest.look("photo-to-clip")
        video.focus()
        page.keyboard.press("Space")
        page.wait_for_function("document.querySelector('#viewer-stage video').currentTime > 0.2")
        made = newest(app, "a big white circle moving right, blue background")
        assert made["request_data"]["task_type"] == "img2video"
        assert made["generation_data"]["files"][0]["poster_url"] == poster
        viewer.get_by_role("button", name="Close").click()

    def test_a_result_is_enlarged(self, guest: Visitor, app: LocalApp) -> None:
        viewer = guest.open_result(guest.draw("a yellow triangle on purple"))
        viewer.get_by_role("button", name="Enlarge").click()
        expect(guest.page.locator("#create")).to_be_focused()
        expect(guest.page.get_by_role("radio", name="Enlarge")).to_be_checked()
        guest.draw("")
        made = next(one for one in documents(app) if one.get("request_data", {}).get("task_type") == "upscale")
        (file,) = made["generation_data"]["files"]
        assert (file["width"], file["height"]) == (512, 512)


class TestBadLuck:
    """Failures are reported as they are, and no user is left with a button that does nothing."""

    def test_tried_again_twice_at_once_it_is_one_job(self, guest: Visitor) -> None:
        card = _cancelled(guest, "a small red circle moving right")
        asked: list[str] = []
        guest.page.on("request", lambda one: asked.append(one.url) if one.url.endswith("/generate") else None)
        card.get_by_role("button", name="Try again").evaluate("(button) => { button.click(); button.click(); }")
        expect(guest.page.locator(".job.over")).to_have_count(0, timeout=PATIENCE_MS)
        expect(guest.page.locator(".job .stage").first).to_contain_text("Drawing", timeout=PATIENCE_MS)
        expect(guest.page.locator(".job")).to_have_count(1)
        guest.page.get_by_role("button", name="Cancel").click()
        expect(guest.page.locator(".job .stage")).to_have_text("Cancelled.", timeout=PATIENCE_MS)
        assert len(asked) == 1

    def test_a_browser_that_keeps_nothing_loses_no_job(self, guest: Visitor) -> None:
        guest.page.evaluate(
            "() => { Storage.prototype.setItem = () => { throw new DOMException('', 'QuotaExceededError'); }; }"
        )
        card = guest.ask("a small blue star on white")
        guest.finished(card)
        expect(guest.page.locator("#compose-error")).to_be_empty()
        guest.page.reload()
        guest.wait_for_the_form()

    def test_what_is_deleted_cannot_be_opened_from_the_job_that_made_it(self, guest: Visitor) -> None:
        card = guest.draw("a small green star on white")
        viewer = guest.open_result(card)
        viewer.get_by_role("button", name="Delete").click()
        guest.page.get_by_role("dialog", name="Delete this?").get_by_role("button", name="Delete").click()
        expect(card).to_have_count(0, timeout=PATIENCE_MS)

    @pytest.mark.parametrize("kept", [True, False], ids=["kept for later", "lost"])
    def test_what_could_not_be_stored_is_promised_for_later_only_where_it_comes(
        self, guest: Visitor, app: LocalApp, kept: bool
    ) -> None:
        """A result that is kept must not be requested, and paid, again."""
        prompt = f"a big {'red' if kept else 'blue'} square moving left"
        card = _drawing(guest, prompt)
        made = newest(app, prompt)
        if kept:
            ended = {"status": "failed", "error": {"code": "storage_unavailable", "message": "", "retryable": False}}
        else:
            inline: dict[str, Any] = {"storage": "base64", "images": [], "image_url": None, "files": []}
            ended = {"status": "completed", "generation_data": inline}
        document = app.firebase.documents.document(f"generations/{made['user_id']}/files/{made['file_uid']}")
        document.update(ended)
        later = "It is drawn, but could not be stored yet. It will appear here later."
        said = later if kept else "It could not be stored. Try again."
        expect(card.locator(".stage")).to_have_text(said, timeout=PATIENCE_MS)
        expect(card.get_by_role("button", name="Try again")).to_have_count(0 if kept else 1)
        card.get_by_role("button", name="Put away").click()
        document.delete()  # the worker is still drawing it

    def test_what_is_finished_after_later_jobs_is_opened_and_has_its_place(self, guest: Visitor, app: LocalApp) -> None:
        """Of the later ones one has no files in the bucket, and is not shown: it cannot be opened."""
        guest.draw("a small red star on white")
        count = guest.tiles.count()
        prompt = "a big green star moving left"
        card = _drawing(guest, prompt)
        made = newest(app, prompt)
        files = app.firebase.documents.collection(f"generations/{made['user_id']}/files")
        for number in range(8):
            later = made["created_at"] + timedelta(milliseconds=number + 1)
            named = {"user_id": made["user_id"], "file_uid": f"later{number}"}
            files.document(f"later{number}").set({**named, "status": "failed", "created_at": later, "request_data": {}})
        inline: dict[str, Any] = {"url": None, "thumbnail_url": None, "blurhash": None, "width": 64, "height": 64}
        files.document("later0").update(
            {"status": "completed", "generation_data": {"storage": "base64", "files": [inline]}}
        )
        guest.finished(card)
        expect(guest.tiles).to_have_count(count + 1, timeout=PATIENCE_MS)
        viewer = guest.open_result(card)
        expect(viewer.locator("#viewer-prompt")).to_have_text(prompt)
        guest.page.keyboard.press("Escape")
        assert prompt in (guest.tiles.first.get_attribute("aria-label") or "")

    @pytest.mark.parametrize("is_seen", [True, False], ids=["price seen", "price unseen"])
    def test_a_request_is_what_the_form_said_when_the_button_was_pressed(
        self, guest: Visitor, app: LocalApp, photo: Path, is_seen: bool
    ) -> None:
        """A picture is still on its way when the user goes on to something else, whose price agrees to nothing."""
        page = guest.page
        held: list[Route] = []

        def hold(route: Route) -> None:
            held.append(route)

        # The same file again would be no change.
        chosen: FilePayload = {"name": f"{is_seen}.png", "mimeType": "image/png", "buffer": photo.read_bytes()}
        prompt = f"a yellow star on {'green' if is_seen else 'purple'}"
        guest.choose("Kind", "Repaint a part" if is_seen else "From a photo")
        try:
            if is_seen:
                page.locator("#photo-file").set_input_files(chosen)
                expect(page.locator("#price")).to_contain_text("credit", timeout=PATIENCE_MS)
            guest.context.route("**/v0/b/**", hold)
            if is_seen:
                _mark(guest)
            else:
                page.locator("#photo-file").set_input_files(chosen)
            expect(page.locator("#photo.sending")).to_be_visible(timeout=PATIENCE_MS)
            page.get_by_label("Your words").fill(prompt)
            page.get_by_role("button", name="Create", exact=True).click()
            guest.choose("Kind", "Picture")
            guest.wait_until(lambda: len(held) > 0, "the upload")
            expect(page.locator("#price[aria-busy]")).to_have_count(0, timeout=PATIENCE_MS)
            expect(page.locator("#price")).to_contain_text("credit", timeout=PATIENCE_MS)
        finally:
            for route in held:
                route.continue_()
            guest.context.unroute("**/v0/b/**")
        if not is_seen:
            expect(page.locator("#compose-error")).to_contain_text("Press again if that is fine.", timeout=PATIENCE_MS)
            expect(page.locator(".job:not(.over)")).to_have_count(0)
            return
        guest.wait_until(lambda: prompt in map(prompt_of, documents(app)), "the job")
        assert newest(app, prompt)["request_data"]["task_type"] == "inpaint"
        guest.finished(page.locator(".job").first)

    def test_a_job_that_is_out_of_sight_is_looked_for_and_not_made_again(self, guest: Visitor, app: LocalApp) -> None:
        """As where App Check fails for a while, and the document may not be read."""
        asked: list[str] = []
        guest.page.on("request", lambda one: asked.append(one.url) if one.url.endswith("/generate") else None)
        card = _drawing(guest, "a big orange square moving right")
        rules = (REPOSITORY / "firestore.rules").read_text()
        try:
            guest.context.set_offline(True)
            expect(card.locator(".stage")).to_contain_text("No connection", timeout=PATIENCE_MS)
            _put_rules(app, rules.replace("allow get: if isOwner(uid);", "allow get: if false;", 1))
            guest.context.set_offline(False)
            expect(card.locator(".stage")).to_have_text("You may not do that.", timeout=PATIENCE_MS)
        finally:
            _put_rules(app, rules)
        card.get_by_role("button", name="Try again").click()
        card = guest.page.locator(".job").first
        expect(card.locator(".job-name")).to_have_text("a big orange square moving right")
        guest.finished(card)
        assert len(asked) == 1

    def test_a_photo_that_the_browser_cannot_show_is_not_marked_blindly(self, guest: Visitor, tmp_path: Path) -> None:
        """A phone's HEIC, in most browsers; the worker reads it."""
        import pillow_heif

        pillow_heif.from_pillow(Image.new("RGB", (96, 64), "red")).save(tmp_path / "phone.heic")
        page = guest.page
        guest.choose("Kind", "Repaint a part")
        page.locator("#photo-file").set_input_files(tmp_path / "phone.heic")
        expect(page.locator("#photo-name")).to_have_text("phone.heic")
        expect(page.locator("#photo.sending")).to_have_count(0, timeout=PATIENCE_MS)
        expect(page.locator("#photo-mark")).to_be_hidden()
        guest.ask("a red star")
        expect(page.locator("#compose-error")).to_contain_text("cannot show that photo")

    def test_without_a_connection_it_says_so(self, guest: Visitor) -> None:
        guest.page.get_by_label("Your words").fill("a big yellow star on black")
        expect(guest.page.locator("#price[aria-busy]")).to_have_count(0, timeout=PATIENCE_MS)
        guest.context.set_offline(True)
        try:
            guest.page.get_by_label("Your words").fill("a big yellow star on blue")
            guest.page.get_by_role("button", name="Create", exact=True).click()
            said = "There is no connection. Try again once there is one."
            expect(guest.page.locator("#compose-error")).to_have_text(said, timeout=PATIENCE_MS)
        finally:
            guest.context.set_offline(False)

    def test_a_history_that_cannot_be_had_is_not_called_empty(self, guest: Visitor) -> None:
        if guest.tiles.count() == 0:
            guest.draw("a big green star on black")
        count = guest.tiles.count()
        guest.context.route("**/google.firestore.v1.Firestore/**", lambda route: route.abort())
        guest.page.reload()
        more = guest.page.get_by_role("button", name="Show more")
        expect(more).to_be_visible(timeout=PATIENCE_MS)
        expect(guest.page.locator("#toast")).to_contain_text("There is no connection.")
        expect(guest.page.locator("#empty")).to_be_hidden()
        guest.context.unroute("**/google.firestore.v1.Firestore/**")
        deadline = time.monotonic() + PATIENCE_MS / 1000
        while guest.tiles.count() < count:
            assert time.monotonic() < deadline, "it never came"
            if more.is_visible():
                more.click()
            guest.page.wait_for_timeout(500)

    def test_a_job_that_goes_on_while_its_user_is_signed_out_has_its_words_again(self, visitor: Arrive) -> None:
        one = visitor()
        one.arrive()
        one.knock("carol@example.com", "correct horse", "Create an account")
        one.wait_for_the_form()
        _drawing(one, "a big pink circle moving right")
        one.page.get_by_role("button", name="Account").click()
        one.page.get_by_role("button", name="Sign out").click()
        one.knock("carol@example.com", "correct horse", "Sign in")
        one.wait_for_the_form()
        expect(one.page.locator(".job .job-name")).to_have_text("a big pink circle moving right", timeout=PATIENCE_MS)
        one.page.get_by_role("button", name="Cancel").click()
        expect(one.page.locator(".job .stage")).to_have_text("Cancelled.", timeout=PATIENCE_MS)


def _put_rules(app: LocalApp, rules: str) -> None:
    """Give Google's emulator other rules while it runs."""
    file = {"name": "firestore.rules", "content": rules}
    request = urllib.request.Request(
        f"http://{app.firebase.firestore_address}/emulator/v1/projects/{app.firebase.project}:securityRules",
        data=json.dumps({"rules": {"files": [file]}}).encode(),
        headers={"Content-Type": "application/json"},
        method="PUT",
    )
    urllib.request.urlopen(request).close()


def _mark(guest: Visitor) -> None:
    """Mark a part of the photo that is repainted."""
    guest.page.locator("#photo-mark").press("Enter")
    guest.page.locator("#mask-board").press(" ")
    guest.page.locator("#mask-done").press("Enter")


def _drawing(one: Visitor, prompt: str) -> Locator:
    """Start a clip that takes a while, and return its card."""
    one.choose("Kind", "Clip")
    one.choose("How long", "5 seconds")
    card = one.ask(prompt)
    one.is_drawing(card)
    return card


def _cancelled(one: Visitor, prompt: str) -> Locator:
    card = _drawing(one, prompt)
    card.get_by_role("button", name="Cancel").click()
    expect(card.locator(".stage")).to_have_text("Cancelled.", timeout=PATIENCE_MS)
    return card


class TestKeeping:
    def test_a_favourite_stays_one(self, guest: Visitor, app: LocalApp) -> None:
        guest.draw("a small red star on green")
        everything = guest.tiles.count()
        viewer = guest.open_first()
        heart = viewer.get_by_role("button", name="Favourite")
        heart.click()
        expect(heart).to_have_attribute("aria-pressed", "true")
        viewer.get_by_role("button", name="Close").click()
        deadline = time.monotonic() + 30
        while not any(one.get("favorite") for one in documents(app)):
            assert time.monotonic() < deadline, "the server was not told"
            time.sleep(0.1)
        guest.page.reload()
        expect(guest.tiles).to_have_count(everything, timeout=PATIENCE_MS)
        guest.page.get_by_role("button", name="Favourites").click()
        expect(guest.tiles).to_have_count(1)
        guest.page.get_by_role("button", name="Favourites").click()
        expect(guest.tiles).to_have_count(everything)

    def test_a_picture_can_be_reported(self, guest: Visitor, app: LocalApp) -> None:
        viewer = guest.open_result(guest.draw("a small red square on green"))
        viewer.get_by_role("button", name="Report").click()
        dialog = guest.page.get_by_role("dialog", name="What is wrong with it?")
        dialog.get_by_label("It shows a real person").check()
        dialog.get_by_label("A few words").fill("That is my neighbour.")
        guest.is_accessible()
        guest.look("report")
        dialog.get_by_role("button", name="Send").click()
        expect(guest.page.locator("#toast")).to_contain_text("Thank you", timeout=PATIENCE_MS)
        (told,) = [one.to_dict() for one in app.firebase.documents.collection("reports").stream()]
        assert "That is my neighbour." in told.values()
        guest.page.keyboard.press("Escape")

    def test_a_picture_that_is_opened_while_another_one_is_deleted_stays_open(self, guest: Visitor) -> None:
        guest.draw("a small blue star on green")
        guest.draw("a small blue circle on green")
        everything = guest.tiles.count()
        held: list[Route] = []

        def hold(route: Route) -> None:
            if route.request.method == "DELETE":
                held.append(route)
            else:
                route.continue_()

        guest.context.route("**/v0/b/**", hold)
        viewer = guest.open_first()
        viewer.get_by_role("button", name="Delete").click()
        guest.page.get_by_role("dialog", name="Delete this?").get_by_role("button", name="Delete").click()
        guest.wait_until(lambda: len(held) == 2, "the deletion of the picture and its thumbnail")
        guest.page.keyboard.press("Escape")
        guest.tiles.nth(1).click()
        for route in held:
            route.continue_()
        guest.context.unroute("**/v0/b/**")
        expect(guest.page.locator("#grid .tile")).to_have_count(everything - 1, timeout=PATIENCE_MS)
        expect(viewer).to_be_visible()
        expect(viewer.locator("#viewer-prompt")).to_have_text("a small blue star on green")
        guest.page.keyboard.press("Escape")

    def test_what_is_deleted_is_gone_from_page_database_and_bucket(self, guest: Visitor, app: LocalApp) -> None:
        guest.draw("a small red circle on green")
        count = guest.tiles.count()
        made = newest(app, "a small red circle on green")
        paths = [
            path for file in made["generation_data"]["files"] for path in (file["storage_path"], file["thumbnail_path"])
        ]
        assert all(app.firebase.objects.blob(path).exists() for path in paths)
        viewer = guest.open_first()
        viewer.get_by_role("button", name="Delete").click()
        sure = guest.page.get_by_role("dialog", name="Delete this?")
        expect(sure.get_by_role("button", name="Keep it")).to_be_focused()
        guest.page.keyboard.press("Enter")
        expect(viewer).to_be_visible()
        viewer.get_by_role("button", name="Delete").click()
        sure.get_by_role("button", name="Delete").click()
        expect(guest.tiles).to_have_count(count - 1, timeout=PATIENCE_MS)
        assert made["file_uid"] not in [one["file_uid"] for one in documents(app)]
        assert not any(app.firebase.objects.blob(path).exists() for path in paths)


class TestHistory:
    def test_thirty_pictures_show_something_at_once_and_all_thumbnails_soon(
        self, visitor: Arrive, app: LocalApp
    ) -> None:
        """Colours before any picture, from under 10 kB of BlurHash; then thumbnails, under 600 kB in all."""
        one = visitor(phone=True)
        one.come_in_as_guest()
        one.draw("a red star on white")
        made = newest(app, "a red star on white")
        fill(app, made["user_id"], made)
        wire = Wire(one.context.new_cdp_session(one.page))

        # As on a bad train connection: the bucket cannot be reached.
        one.context.route("**/v0/b/**", lambda route: route.abort())
        one.page.reload()
        expect(one.tiles).to_have_count(COUNT, timeout=PATIENCE_MS)
        shades = one.page.eval_on_selector_all(
            "#grid .blur",
            """(all) => all.map((one) => {
              const { data } = one.getContext("2d").getImageData(0, 0, one.width, one.height);
              return data[3] === 255 ? new Set(data).size : 0;
            })""",
        )
        assert min(shades) > 20, "every tile shows colours"
        assert wire.images == 0
        small = packed(app, made["user_id"])
        assert 5 * KB < small < 15 * KB
        first = wire.documents
        assert 50 * KB < first < 200 * KB
        stored = [one for one in documents(app) if one["user_id"] == made["user_id"]]
        hashes = sum(len(file["blurhash"]) for one in stored for file in one["generation_data"]["files"])
        assert hashes < 10 * KB
        one.look("history-blur", whole=True)
        one.context.unroute("**/v0/b/**")

        one.page.reload()
        expect(one.tiles).to_have_count(COUNT, timeout=PATIENCE_MS)
        for tile in range(0, COUNT, 3):
            one.tiles.nth(tile).scroll_into_view_if_needed()
        one.wait_for_pictures()
        assert one.page.locator("#grid img").count() == COUNT
        assert 100 * KB < wire.images < 600 * KB, f"{wire.images / KB:.0f} kB"
        sys.stdout.write(
            f"\n{COUNT} pictures: documents {first / KB:.0f} kB ({small / KB:.1f} kB packed), "
            f"of them BlurHash {hashes} bytes; thumbnails {wire.images / KB:.0f} kB\n"
        )
        one.look("history", whole=True)
        one.is_accessible()
