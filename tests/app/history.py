"""A history of thirty pictures as detailed as photos, and the bytes it takes on the wire."""

from __future__ import annotations

import datetime
import gzip
import json
import random
import re
import urllib.request
import uuid
from typing import Any

import numpy as np
from playwright.sync_api import CDPSession

from tools.app.stack import LocalApp
from worker.media.thumbnail import thumbnail

COUNT = 30
DIFFERENT = 6
WORDS = (
    "a quiet harbour at dawn boats lanterns fog gulls an old fox reading in the library by candlelight oil painting "
    "snow on cedar trees wide shot soft light red kite over yellow dunes glass city rain neon street bicycle"
)


def landscape(number: int) -> Any:
    """Return hills under a sky with grain on both: (1024, 1024, 3), uint8."""
    dice = np.random.default_rng(number)
    down, across = np.mgrid[0:1:1024j, 0:1:1024j]
    hills = sum(np.sin(across * dice.uniform(4, 40) + dice.uniform(0, 6)) / (k + 3) for k in range(8)) * 0.2 + 0.6
    ground = (down > hills)[..., None]
    sky = dice.uniform(60, 255, 3) * (1 - 0.5 * down[..., None])
    earth = dice.uniform(20, 160, 3) * (0.6 + 0.4 * np.sin(across * 180 + down * 90))[..., None]
    return (np.where(ground, earth, sky) + dice.normal(0, 10, (1024, 1024, 3))).clip(0, 255).astype(np.uint8)


def fill(app: LocalApp, uid: str, made: dict[str, Any]) -> None:
    """Write thirty documents like the one that the worker made, each with its own prompt, thumbnail and tokens."""
    now = datetime.datetime.now(datetime.UTC)
    different = [thumbnail(landscape(number)) for number in range(DIFFERENT)]
    for number in range(COUNT):
        small = different[number % len(different)]
        name = f"photo{number}of{uuid.uuid4().hex}"[:20]
        path = f"generating/{uid}/image/thumbs/{name}.webp"
        token = str(uuid.uuid4())
        blob = app.firebase.objects.blob(path)
        blob.metadata = {"firebaseStorageDownloadTokens": token}
        blob.upload_from_string(small.data, content_type="image/webp")
        place = f"{app.firebase.storage_url}/v0/b/{app.firebase.bucket}/o/{path.replace('/', '%2F')}"
        shown = {"thumbnail_url": f"{place}?alt=media&token={token}", "thumbnail_path": path}
        copied = _anew(made, made["file_uid"], name)
        (file,) = copied["generation_data"]["files"]
        file.update(shown, blurhash=small.blurhash)
        copied["created_at"] = now + datetime.timedelta(seconds=number)
        copied["request_data"]["prompt"] = " ".join(random.Random(number).choices(WORDS.split(), k=12))
        app.firebase.documents.document(f"generations/{uid}/files/{name}").set(copied)


def _anew(made: dict[str, Any], before: str, after: str) -> dict[str, Any]:
    """Return a copy under another name, whose files have other tokens, so that nothing repeats that would not."""
    tokens: dict[str, str] = {}

    def changed(value: Any) -> Any:
        if isinstance(value, str):
            named = value.replace(before, after)
            return re.sub(r"[0-9a-f-]{32,36}", lambda old: tokens.setdefault(old[0], str(uuid.uuid4())), named)
        if isinstance(value, dict):
            return {key: changed(one) for key, one in value.items()}
        return [changed(one) for one in value] if isinstance(value, list) else value

    copied: dict[str, Any] = changed(made)
    return copied


class Wire:
    """The bytes that arrived so far, by the browser's network layer: of images, and from Firestore."""

    def __init__(self, session: CDPSession) -> None:
        self.images = self.documents = 0
        self._kinds: dict[str, str] = {}
        session.send("Network.enable")
        session.on("Network.responseReceived", self._begun)
        session.on("Network.dataReceived", self._came)

    def _begun(self, event: Any) -> None:
        of_firestore = "google.firestore.v1.Firestore" in event["response"]["url"]
        self._kinds[event["requestId"]] = "Firestore" if of_firestore else event["type"]

    def _came(self, event: Any) -> None:
        kind = self._kinds.get(event["requestId"])
        if kind == "Image":
            self.images += int(event["dataLength"])
        elif kind == "Firestore":
            self.documents += int(event["dataLength"])


def packed(app: LocalApp, uid: str) -> int:
    """Return the bytes of a user's newest thirty documents in Firestore's own JSON, compressed with gzip."""
    asked = {
        "from": [{"collectionId": "files"}],
        "orderBy": [{"field": {"fieldPath": "created_at"}, "direction": "DESCENDING"}],
        "limit": COUNT,
    }
    where = f"projects/{app.firebase.project}/databases/(default)/documents/generations/{uid}"
    request = urllib.request.Request(
        f"http://{app.firebase.firestore_address}/v1/{where}:runQuery",
        data=json.dumps({"structuredQuery": asked}).encode(),
        headers={"Authorization": "Bearer owner", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request) as answer:
        found = json.load(answer)
    assert len(found) == COUNT
    return len(gzip.compress(json.dumps(found, separators=(",", ":")).encode()))
