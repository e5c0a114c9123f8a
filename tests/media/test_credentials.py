"""Files signed with the operator's certificate are intact, and C2PA's own reader verifies them."""

import base64
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import c2pa
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from PIL import Image

from tests.media.test_mark import FILES, FRAMES, PIXELS, XMP
from tests.media.test_mark import read as exiftool
from tests.support.certificates import Key, certificate
from tests.support.memory_world import CLOUD, World, data_uri
from worker.core.config import ConfigError, load_settings
from worker.job.services import Services
from worker.media.artifact import Artifact
from worker.media.credentials import NOT_SIGNED, NotSignedError, Signer
from worker.media.inline import data_uri as inline_uri
from worker.media.mark import Origin
from worker.media.video import encode_video

CHAIN, KEY = certificate()


def signer_of(chain: str | None = CHAIN, key: str | None = KEY) -> Signer:
    found = Signer.of(load_settings(c2pa_certificate=chain, c2pa_key=key))
    assert found is not None
    return found


def told(data: bytes, content_type: str) -> dict[str, Any]:
    """Return the reader's findings: the action, the signer and all of it. Only an unknown authority is tolerated."""
    with c2pa.Reader(content_type, io.BytesIO(data)) as reader:
        said = json.loads(reader.json())
    manifest = said["manifests"][said["active_manifest"]]
    actions = next(one for one in manifest["assertions"] if one["label"].startswith("c2pa.actions"))
    wrong = [one["code"] for one in said.get("validation_status", ())]
    assert wrong in ([], ["signingCredential.untrusted"])
    return {"action": actions["data"]["actions"][0], "signer": manifest["signature_info"], "all": json.dumps(said)}


@pytest.mark.e2e
@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("origin", ["generated", "composite"])
def test_every_kind_of_file_says_who_signed_it_and_that_ai_made_it(kind: str, origin: Origin, tmp_path: Path) -> None:
    plain = FILES[kind](XMP)
    signed = signer_of().sign(plain, origin)
    found = told(signed.data, signed.content_type)
    source = {"generated": "/trainedAlgorithmicMedia", "composite": "/compositeWithTrainedAlgorithmicMedia"}[origin]
    assert found["action"]["action"] == "c2pa.created"
    assert found["action"]["digitalSourceType"].endswith(source)
    assert found["signer"]["issuer"] == "An app"
    assert signed.size == len(signed.data) > plain.size
    assert "trainedAlgorithmicMedia" in json.dumps(exiftool(signed, tmp_path)), "the mark is still there"
    assert replace(signed, data=b"", size=0) == replace(plain, data=b"", size=0)


def test_the_pixels_stay_what_they_were() -> None:
    signed = signer_of().sign(FILES["png"](XMP), "generated")
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(signed.data))), PIXELS)


def test_a_clip_still_begins_with_its_index() -> None:
    signed = signer_of().sign(encode_video(FRAMES, 8, xmp=XMP), "generated").data
    assert 0 < signed.find(b"moov") < signed.find(b"mdat")


@pytest.mark.parametrize(
    "key",
    [
        lambda: ec.generate_private_key(ec.SECP384R1()),
        lambda: ec.generate_private_key(ec.SECP521R1()),
        ed25519.Ed25519PrivateKey.generate,
        lambda: rsa.generate_private_key(65537, 2048),
    ],
    ids=["P-384", "P-521", "Ed25519", "RSA"],
)
def test_every_kind_of_key_that_c2pa_knows_signs(key: Callable[[], Key]) -> None:
    signed = signer_of(*certificate(key())).sign(FILES["webp"](None), "generated")
    assert told(signed.data, signed.content_type)["action"]["action"] == "c2pa.created"


@pytest.mark.parametrize(
    "pasted", [lambda pem: pem.replace("\n", "\\n"), lambda pem: pem.replace("\n", " "), str.strip]
)
def test_a_pem_is_taken_as_people_paste_it(pasted: Any) -> None:
    signer_of(pasted(CHAIN), pasted(KEY)).sign(FILES["png"](None), "generated")


def test_a_pem_may_be_in_files(tmp_path: Path) -> None:
    (tmp_path / "chain.pem").write_text(CHAIN)
    (tmp_path / "key.pem").write_text(KEY)
    signer_of(str(tmp_path / "chain.pem"), str(tmp_path / "key.pem"))


def test_without_a_certificate_there_is_no_signer() -> None:
    assert Signer.of(load_settings()) is None


WRONG: list[tuple[str, str | None, str | None, str]] = [
    ("no key", CHAIN, None, "C2PA_KEY"),
    ("no certificate", None, KEY, "C2PA_CERTIFICATE"),
    ("no PEM", "a certificate", KEY, "C2PA_CERTIFICATE"),
    ("the key twice", KEY, KEY, "C2PA_CERTIFICATE"),
    ("the certificate twice", CHAIN, CHAIN, "C2PA_KEY"),
    ("half a key", CHAIN, KEY.replace(KEY[40:90], ""), "C2PA_KEY"),
    ("another's key", CHAIN, certificate()[1], "C2PA_CERTIFICATE"),
    ("a weak key", *certificate(rsa.generate_private_key(65537, 1024)), "C2PA_KEY"),
    ("a curve that C2PA lacks", *certificate(ec.generate_private_key(ec.SECP256K1())), "C2PA"),
    ("expired", *certificate(days=-1), "C2PA_CERTIFICATE"),
    ("for servers", *certificate(use=ExtendedKeyUsageOID.SERVER_AUTH), "C2PA_CERTIFICATE"),
]


@pytest.mark.parametrize(("chain", "key", "blamed"), [one[1:] for one in WRONG], ids=[one[0] for one in WRONG])
def test_what_is_wrong_is_said_at_the_start_with_the_variable(chain: str, key: str, blamed: str) -> None:
    with pytest.raises(ConfigError) as caught:
        signer_of(chain, key)
    said = str(caught.value)
    assert said.startswith(blamed)
    assert KEY[40:60] not in said


class SigningWorld(World):
    """A worker with a certificate."""

    def __init__(self, signer: Signer, **settings: Any) -> None:
        super().__init__(**settings)
        self.signer = signer

    def services(self) -> Services:
        return replace(super().services(), signer=self.signer)


class Breaks(Signer):
    """Its certificate was valid at the start, and fails later."""

    def sign(self, file: Artifact, origin: Origin) -> Artifact:
        raise NotSignedError


JOBS = [
    {**CLOUD, "num_images": 2},
    {**CLOUD, "task_type": "img2img", "image_url": data_uri(), "output_format": "jpeg"},
    {**CLOUD, "task_type": "text2video", "num_frames": 9, "fps": 8},
]


@pytest.mark.parametrize("asked", JOBS, ids=["images", "from a picture", "clip"])
async def test_every_object_of_a_job_is_signed(asked: dict[str, Any]) -> None:
    world = SigningWorld(signer_of())
    answered = await world.run(asked)
    assert answered["warnings"] == []
    assert len(world.bucket.objects) == 2 * len(answered["files"])
    for path, (data, *_) in world.bucket.objects.items():
        kind = {"png": "image/png", "jpg": "image/jpeg", "webp": "image/webp", "mp4": "video/mp4"}[
            path.rpartition(".")[2]
        ]
        found = told(data, kind)
        source = "compositeWith" if "image_url" in asked else "/trained"
        assert source in found["action"]["digitalSourceType"]
        assert "a fox" not in found["all"]


async def test_what_is_encoded_again_to_fit_is_signed_and_fits() -> None:
    world = SigningWorld(signer_of(), max_result_bytes=40_000)
    answered = await world.run({"prompt": "a fox", "width": 128, "height": 128})
    assert "error" not in answered, answered
    assert len(json.dumps(answered)) <= 40_000
    kind, _, data = answered["images"][0].partition(";base64,")
    assert told(base64.b64decode(data), kind.removeprefix("data:"))["signer"]["issuer"] == "An app"


async def test_a_signature_that_fails_costs_no_result() -> None:
    world = SigningWorld(Breaks(CHAIN, KEY, b"es256"))
    answered = await world.run(CLOUD)
    assert answered["warnings"] == [NOT_SIGNED]
    assert world.document["status"] == "completed"
    assert world.document["generation_data"]["warnings"] == [NOT_SIGNED]


def test_a_file_that_cannot_be_signed_says_so() -> None:
    broken = Artifact.encoded(b"no picture", "image/png", 1, 1)
    with pytest.raises(NotSignedError):
        signer_of().sign(broken, "generated")
    assert inline_uri(broken).startswith("data:image/png")
