"""Users of custom sign-in, end to end: their uid is one level of a document's path, an object's name and a URL."""

import io
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from PIL import Image

from tests.support.faulty_firebase import FaultyFirebase
from tests.support.faulty_world import World, cloud
from tools import showing

UIDS = ("auth0|abc", "kakao:12345", "user.name", "a+b@c.example", "...", "+", "|", "a" * 128)


@pytest.fixture
def world(faulty_firebase: FaultyFirebase, tmp_path: Path) -> World:
    return World(faulty_firebase, tmp_path / "ledger")


@pytest.mark.e2e
@pytest.mark.parametrize("uid", UIDS)
async def test_a_uid_of_custom_sign_in_is_served_from_upload_to_url(world: World, uid: str) -> None:
    """react-native-auth0#14: custom sign-in gives uids such as provider:id."""
    photo = io.BytesIO()
    Image.new("RGB", (64, 64), (200, 30, 30)).save(photo, "PNG")
    upload = f"uploads/{uid}/photo.png"
    world.firebase.objects.blob(upload).upload_from_string(photo.getvalue(), content_type="image/png")
    source = f"gs://{world.firebase.objects.name}/{upload}"
    response = await world.serve(cloud("file", task_type="img2img", user_id=f" {uid} ", image_url=source))
    path = f"generating/{uid}/image/file.png"
    assert response["storage"] == "firebase", response
    assert (response["user_id"], response["files"][0]["storage_path"]) == (uid, path)
    assert set(world.objects()) == {upload, path, f"generating/{uid}/image/thumbs/file.webp"}
    assert unquote(urlsplit(response["image_url"]).path.rpartition("/")[2]) == path
    assert not set("+|:@ ") & set(urlsplit(response["image_url"]).path)
    showing.check_image(showing.content(response["image_url"]), 64, 64)
    document = world.firebase.documents.document(f"generations/{uid}/files/file").get().to_dict()
    assert (document["user_id"], document["status"]) == (uid, "completed")
    assert document["generation_data"]["image_url"] == response["image_url"]
    again = await world.serve(cloud("file", task_type="img2img", user_id=uid, image_url=source))
    assert again["image_url"] == response["image_url"]


@pytest.mark.e2e
async def test_a_uid_opens_no_folder_of_another_that_looks_like_it(world: World) -> None:
    bucket = world.firebase.objects.name
    for uid, other in (("a", "a.b"), ("a.b", "a"), ("auth0|abc", "auth0"), ("a+b", "a%2Bb"), ("a:b", "a%3Ab")):
        source = f"gs://{bucket}/uploads/{other}/photo.png"
        response = await world.serve(cloud("file", task_type="img2img", user_id=uid, image_url=source))
        assert response["error_code"] == "forbidden", (uid, other)
