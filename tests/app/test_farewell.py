"""Deleting an account in the app, as the app stores require: the warning before it, and nothing left after it."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, Route, expect

from tests.app.visitor import PATIENCE_MS, Visitor
from tests.support.belongings import belongings
from tools.app.stack import LocalApp

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
Arrive = Callable[..., Visitor]
EMAIL, PASSWORD = "leaver@example.com", "correct horse"
EVERYTHING = """() => document.documentElement.outerHTML
  + [...document.querySelectorAll("input, textarea")].map(({ value }) => value)"""
"""All text on the page, typed input included."""
DELETION = "**/accounts:delete*"
CUT = "There is no connection, so your account may still be there. Try again."


def uid_of(one: Visitor) -> str:
    """Return the uid of the signed-in user, as Firebase's SDK stores it."""
    found: str = one.page.evaluate(
        """() => new Promise((resolve, reject) => {
          const opening = indexedDB.open("firebaseLocalStorageDb");
          opening.onerror = () => reject(opening.error);
          opening.onsuccess = () => {
            const all = opening.result.transaction("firebaseLocalStorage").objectStore("firebaseLocalStorage").getAll();
            all.onsuccess = () => resolve(all.result[0].value.uid);
          };
        })"""
    )
    return found


def left(app: LocalApp, uid: str) -> set[str]:
    return belongings(app.firebase.documents, app.firebase.objects, uid)


def farewell(page: Page) -> Locator:
    """Open the account's dialog and, from there, the one that deletes it."""
    page.get_by_role("button", name="Account").click()
    page.get_by_role("dialog", name="Your account").get_by_role("button", name="Delete account").click()
    dialog = page.get_by_role("dialog", name="Delete your account?")
    expect(dialog.get_by_role("button", name="Keep it")).to_be_focused()
    return dialog


def nothing_is_left(one: Visitor, app: LocalApp, uid: str, *words: str) -> None:
    """Check that nothing is left in the page, which tells the user so, in the browser, or in Firebase."""
    page = one.page
    expect(page.locator("#toast")).to_have_text("Your account is deleted.", timeout=PATIENCE_MS)
    expect(page.locator("#signin")).to_be_visible()
    expect(page.get_by_label("E-mail")).to_be_focused()
    expect(page.locator("dialog[open]")).to_have_count(0)
    expect(page.locator("#grid > *, #now-list > *")).to_have_count(0)
    assert page.evaluate("Object.entries(localStorage)") == []
    text = page.evaluate(EVERYTHING)
    assert [word for word in (uid, *words) if word in text] == []
    one.wait_until(lambda: not one.streams, "the end of the page's listeners")
    one.wait_until(lambda: not left(app, uid), "the end of what is the user's")
    page.reload()
    expect(page.locator("#signin")).to_be_visible(timeout=PATIENCE_MS)


def test_an_account_goes_with_its_pictures_its_photos_and_what_is_being_made(
    visitor: Arrive, app: LocalApp, tmp_path: Path
) -> None:
    """After the password, since the sign-in is old by then; another user keeps everything."""
    other = visitor()
    other.come_in_as_guest()
    other.draw("a small white star on blue")
    kept = uid_of(other)
    theirs = left(app, kept)
    one = visitor()
    page = one.page
    one.arrive()
    one.knock(EMAIL, PASSWORD, "Create an account")
    one.wait_for_the_form()
    one.draw("a big yellow circle on purple")
    uid = uid_of(one)
    Image.new("RGB", (96, 64), "orange").save(photo := tmp_path / "mine.png")
    one.choose("Kind", "From a photo")
    page.locator("#photo-file").set_input_files(photo)
    one.wait_until(lambda: "uploads" in str(left(app, uid)), "an upload")
    one.choose("Kind", "Clip")
    one.choose("How long", "5 seconds")
    card = one.ask("a small green square moving left")
    one.is_drawing(card)
    assert len(left(app, uid)) > 8

    page.get_by_role("button", name="Account").click()
    expect(page.get_by_role("dialog", name="Your account")).to_contain_text(EMAIL)
    one.look("account")
    one.is_accessible()
    page.keyboard.press("Escape")
    dialog = farewell(page)
    one.look("farewell")
    one.is_accessible()
    for word in (
        "every picture and clip",
        "photos you sent",
        "credits that you have not spent",
        f"your sign-in, {EMAIL}",
    ):
        expect(dialog).to_contain_text(word)
    page.keyboard.press("Enter")
    expect(dialog).to_be_hidden()
    expect(page.get_by_role("button", name="Account")).to_be_focused()
    farewell(page)
    dialog.get_by_role("button", name="Delete for good").click()
    sure = dialog.get_by_role("checkbox", name="Yes, delete all of it")
    expect(sure).to_be_focused()
    one.context.route(DELETION, refused_before(time.time()))
    time.sleep(1)  # a token's times are whole seconds
    sure.check()
    dialog.get_by_role("button", name="Delete for good").click()
    password = dialog.get_by_label("Password")
    expect(password).to_be_focused()
    expect(dialog.get_by_role("alert")).to_contain_text("Enter your password once more")
    one.look("farewell-password")
    one.is_accessible()
    password.fill("wrong horse")
    password.press("Enter")
    expect(dialog.get_by_role("alert")).to_have_text("That is not your password.")
    expect(password).to_be_focused()
    password.fill(PASSWORD)
    password.press("Enter")

    nothing_is_left(one, app, uid, EMAIL, "yellow circle", "green square")
    other.draw("a small red star on blue")  # by then the worker has ended what it was busy with
    assert left(app, uid) == set(), "nothing that a job still brought"
    assert theirs < left(app, kept)
    one.knock(EMAIL, PASSWORD, "Sign in")
    expect(page.locator("#signin-error")).not_to_be_empty(timeout=PATIENCE_MS)


def refused_before(moment: float) -> Callable[[Route], None]:
    """Return a route handler that answers as Firebase does to a sign-in from before then; its emulator never does."""

    def handle(route: Route) -> None:
        claims = json.loads(route.request.post_data or "")["idToken"].split(".")[1]
        signed_in = json.loads(base64.urlsafe_b64decode(claims + "=="))["auth_time"]
        if signed_in >= moment:
            return route.continue_()
        error = {"code": 400, "message": "CREDENTIAL_TOO_OLD_LOGIN_AGAIN"}
        return route.fulfill(status=400, json={"error": error}, headers={"access-control-allow-origin": "*"})

    return handle


def test_without_a_network_a_guest_is_told_and_tries_again(visitor: Arrive, app: LocalApp) -> None:
    """By touch on a phone, in dark mode."""
    one = visitor(phone=True, dark=True)
    page = one.page
    one.come_in_as_guest()
    one.draw("a big cyan star on black")
    uid = uid_of(one)
    page.get_by_role("button", name="Account").tap()
    expect(page.get_by_role("dialog", name="Your account")).to_contain_text("You are here as a guest.")
    one.look("account")
    one.is_accessible()
    page.keyboard.press("Escape")
    dialog = farewell(page)
    expect(dialog).to_contain_text("your guest account")
    one.look("farewell")
    one.is_accessible()
    dialog.get_by_text("Yes, delete all of it").tap()
    one.context.set_offline(True)
    dialog.get_by_role("button", name="Delete for good").tap()
    expect(dialog.get_by_role("alert")).to_have_text(CUT, timeout=PATIENCE_MS)
    expect(dialog.get_by_role("checkbox")).to_be_checked()
    one.look("farewell-offline")
    one.is_accessible()
    assert left(app, uid)
    one.context.set_offline(False)
    dialog.get_by_role("button", name="Delete for good").tap()
    nothing_is_left(one, app, uid, "cyan star")


def test_an_answer_that_is_lost_leaves_nothing_behind_either(visitor: Arrive, app: LocalApp) -> None:
    """By keyboard alone. The first try deletes the account and its response is lost; the second one finds it gone."""
    one = visitor(dark=True)
    page = one.page
    one.come_in_as_guest()
    one.draw("a small pink star on white")
    uid = uid_of(one)
    one.tab_to("Account", back=True)
    page.keyboard.press("Enter")
    one.tab_to("Delete account")
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog", name="Delete your account?")
    one.look("farewell")
    one.tab_to("Yes, delete all of it", back=True)
    page.keyboard.press("Space")

    def lost(route: Route) -> None:
        route.fetch()
        route.abort()

    one.context.route(DELETION, lost)
    page.keyboard.press("Enter")
    expect(dialog.get_by_role("alert")).to_have_text(CUT, timeout=PATIENCE_MS)
    one.context.unroute(DELETION)
    one.tab_to("Delete for good")
    page.keyboard.press("Enter")
    nothing_is_left(one, app, uid, "pink star")


def test_a_page_that_is_closed_before_the_answer_leaves_nothing_behind_either(visitor: Arrive, app: LocalApp) -> None:
    """The browser still remembers a job in flight, and finds at its next visit that the account is gone."""
    one = visitor()
    page = one.page
    one.come_in_as_guest()
    one.choose("Kind", "Clip")
    one.choose("How long", "5 seconds")
    card = one.ask("a small red square moving left")
    one.is_drawing(card)
    dialog = farewell(page)
    dialog.get_by_text("Yes, delete all of it").click()
    one.context.route("**/Listen/channel**", lambda route: route.abort())  # it does not hear how its job ends
    deleted = []
    one.context.route(DELETION, lambda route: deleted.append(route.fetch().status))
    dialog.get_by_role("button", name="Delete for good").click()
    one.wait_until(lambda: deleted == [200], "the deletion")
    assert page.evaluate("Object.keys(localStorage)") != []
    page.reload()
    expect(page.locator("#signin")).to_be_visible(timeout=PATIENCE_MS)
    one.wait_until(lambda: page.evaluate("Object.keys(localStorage)") == [], "the end of what the browser remembers")
