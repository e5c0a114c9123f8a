"""A history of thirty pictures as full of detail as photos, and a count of what of it goes over the wire."""

from __future__ import annotations

import datetime
from typing import Any

import numpy as np
from playwright.sync_api import CDPSession

from tools.app.stack import LocalApp
from worker.media.thumbnail import thumbnail

COUNT = 30
DIFFERENT = 6


def landscape(number: int) -> Any:
    """Hills under a sky, grain on both: (1024, 1024, 3), uint8."""
    dice = np.random.default_rng(number)
    down, across = np.mgrid[0:1:1024j, 0:1:1024j]
    hills = sum(np.sin(across * dice.uniform(4, 40) + dice.uniform(0, 6)) / (k + 3) for k in range(8)) * 0.2 + 0.6
    ground = (down > hills)[..., None]
    sky = dice.uniform(60, 255, 3) * (1 - 0.5 * down[..., None])
    earth = dice.uniform(20, 160, 3) * (0.6 + 0.4 * np.sin(across * 180 + down * 90))[..., None]
    return (np.where(ground, earth, sky) + dice.normal(0, 10, (1024, 1024, 3))).clip(0, 255).astype(np.uint8)


def fill(app: LocalApp, uid: str, made: dict[str, Any]) -> None:
    """Thirty documents like the one that the worker made, each with a thumbnail of its own address."""
    now = datetime.datetime.now(datetime.UTC)
    (file,) = made["generation_data"]["files"]
    different = [thumbnail(landscape(number)) for number in range(DIFFERENT)]
    for number in range(COUNT):
        small = different[number % len(different)]
        path = f"generating/{uid}/image/thumbs/photo{number}.webp"
        blob = app.firebase.objects.blob(path)
        blob.metadata = {"firebaseStorageDownloadTokens": f"token-{number}"}
        blob.upload_from_string(small.data, content_type="image/webp")
        place = f"{app.firebase.storage_url}/v0/b/{app.firebase.bucket}/o/{path.replace('/', '%2F')}"
        shown = {"thumbnail_url": f"{place}?alt=media&token=token-{number}", "thumbnail_path": path}
        copied = {
            **made,
            "file_uid": f"photo{number}",
            "created_at": now + datetime.timedelta(seconds=number),
            "generation_data": {
                **made["generation_data"],
                "files": [{**file, **shown, "blurhash": small.blurhash}],
            },
        }
        app.firebase.documents.document(f"generations/{uid}/files/photo{number}").set(copied)


class Wire:
    """The bytes of `images` that arrived so far, as the browser's network layer counts them."""

    def __init__(self, session: CDPSession) -> None:
        self.images = 0
        self._pictures: set[str] = set()
        session.send("Network.enable")
        session.on("Network.responseReceived", self._begun)
        session.on("Network.dataReceived", self._came)

    def _begun(self, event: Any) -> None:
        if event["type"] == "Image":
            self._pictures.add(event["requestId"])

    def _came(self, event: Any) -> None:
        if event["requestId"] in self._pictures:
            self.images += int(event["dataLength"])
