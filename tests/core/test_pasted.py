"""Names as consoles, secret stores and env files give them: read if only one meaning is possible, else refused."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from tests.support.examples import examples
from worker.core.pasted import bucket_name, database_id, tidy

APP = "demo-app.appspot.com"


@pytest.mark.parametrize(
    "pasted",
    [
        APP,
        f"gs://{APP}",
        f"gs://{APP}/",
        f"GS://{APP}//",
        f" {APP}",
        f"{APP}\n",
        f"\ufeff{APP}\r\n",
        f'"{APP}"',
        f"'gs://{APP}/'\n",
        f"“{APP}”",
        f'"{APP}\\n"',
        f'"{APP}",',
        f'storageBucket: "{APP}",',
        f'"storageBucket": "{APP}",',
        f'"storageBucket": "{APP}"',
        f"{APP} # production",
        f"https://console.firebase.google.com/project/demo-app/storage/{APP}/files",
        f"https://console.firebase.google.com/u/1/project/demo-app/storage/{APP}/files/~2Fuploads?hl=de",
        f"https://console.cloud.google.com/storage/browser/{APP};tab=objects?project=demo-app",
        f"https://console.cloud.google.com/storage/browser/_details/{APP}/a.png",
        f"https://firebasestorage.googleapis.com/v0/b/{APP}/o",
        f"https://firebasestorage.googleapis.com/v0/b/{APP}/o/a%2Fb.png?alt=media&token=t",
        f"https://storage.googleapis.com/{APP}",
        f"https://storage.googleapis.com/{APP}/a/b.png",
        f"storage.googleapis.com/{APP}",
        f"https://{APP}.storage.googleapis.com/a.png",
        f"https://storage.googleapis.com/storage/v1/b/{APP}/o",
        f"https://www.googleapis.com/storage/v1/b/{APP}",
        f"https://storage.cloud.google.com/{APP}/a.png",
        f"//storage.googleapis.com/projects/_/buckets/{APP}",
        f"projects/_/buckets/{APP}",
        f"https://{APP}/",
    ],
)
def test_a_bucket_is_read_as_it_was_pasted(pasted: str) -> None:
    """firebase-admin-python#280, firebase-admin-java PR#131: consoles show gs://name, secret stores add a newline."""
    assert bucket_name(pasted) == APP


@pytest.mark.parametrize(
    "name", ["abc", "0-9", "a_b.c", "my-app.firebasestorage.app", "x" * 63, ".".join(["x" * 63] * 3)]
)
def test_every_name_that_a_bucket_can_have_is_taken_as_it_is(name: str) -> None:
    """https://cloud.google.com/storage/docs/buckets#naming."""
    assert bucket_name(name) == name


@pytest.mark.parametrize(
    "pasted",
    ["", "ab", "x" * 64, "a..b", ".".join(["x" * 63] * 4), "-abc", "abc-", "a.b.", "my bucket", "My-App", "ünlaut",
     "a/b", "192.168.5.4", "goog-app", "gs://", "gs:///a", "gs://a-bucket/uploads", "s3://a-bucket", "a,b-c", "{}",
     "'", "a\nbc", "https://example.com/a-bucket", "https://demo-app.web.app",
     "https://console.firebase.google.com/project/demo/storage", "https://console.firebase.google.com/project/demo/storage/files",
     "https://firebasestorage.googleapis.com/v0/b/",
     "https://storage.googleapis.com", "https://user@demo-app.appspot.com", "https://[::1",
     "demo-app.appspot.com/files",
     "-----BEGIN PRIVATE KEY-----"],
)  # fmt: skip
def test_what_cannot_be_the_name_of_one_bucket_is_refused_in_words_without_repeating_it(pasted: str) -> None:
    with pytest.raises(ValueError, match=r"my-app\.firebasestorage\.app") as caught:
        bucket_name(pasted)
    assert len(pasted) < 4 or pasted not in str(caught.value)


@pytest.mark.parametrize(
    ("pasted", "read"),
    [
        ("(default)", "(default)"),
        ('"(default)"\n', "(default)"),
        ("default", "default"),
        (" photos-2 ", "photos-2"),
        ("projects/demo/databases/photos", "photos"),
        ("projects/demo/databases/(default)/documents/generations", "(default)"),
        ("https://console.firebase.google.com/project/demo/firestore/databases/-default-/data", "(default)"),
        ("https://console.firebase.google.com/project/demo/firestore/databases/photos/data/~2Fgenerations", "photos"),
        ("https://firestore.googleapis.com/v1/projects/demo/databases/%28default%29/documents", "(default)"),
    ],
)
def test_a_database_is_read_as_it_was_pasted_and_default_is_not_the_default_one(pasted: str, read: str) -> None:
    """firebase-admin-python#718, firebase-admin-node#2563: new projects may have one called default."""
    assert database_id(pasted) == read


@pytest.mark.parametrize(
    "pasted",
    ["", "abc", "1abc", "Photos", "a_bc", "abc-", "x" * 64, "(photos)", "demo/photos", "databases/", "a bcd",
     "f0e1d2c3-0000-4000-8000-0123456789ab"],
)  # fmt: skip
def test_what_cannot_be_a_database_is_refused(pasted: str) -> None:
    with pytest.raises(ValueError, match=r"\(default\), or 4 to 63"):
        database_id(pasted)


@given(st.text(max_size=60))
@examples(300)
def test_any_text_is_a_name_or_refused_and_a_name_stays_what_it_is(pasted: str) -> None:
    assert tidy(tidy(pasted)) == tidy(pasted)
    for read in (bucket_name, database_id):
        try:
            name = read(pasted)
        except ValueError:
            continue
        assert read(name) == name
        assert read(f' "{name}"\n') == name
