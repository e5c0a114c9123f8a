"""A text names exactly one source of a LoRA, or none; clients may name only what the operator allows."""

from pathlib import Path

import pytest

from worker.core.lora_source import HubFile, LocalFile, LoraSource, WebFile, is_allowed, lora_source

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("text", "source", "label"),
    [
        ("org/name", HubFile("org/name"), "org/name"),
        (" org/name@v1.0 ", HubFile("org/name", "v1.0"), "org/name"),
        ("https://huggingface.co/org/name", HubFile("org/name"), "org/name"),
        ("https://huggingface.co/org/name/tree/dev", HubFile("org/name", "dev"), "org/name"),
        (
            f"https://huggingface.co/org/name/blob/{COMMIT}/a%20b/c.safetensors?download=true",
            HubFile("org/name", COMMIT, "a b/c.safetensors"),
            "org/name/a b/c.safetensors",
        ),
        (
            "HTTPS://HuggingFace.co/org/name/resolve/main/x.safetensors",
            HubFile("org/name", "main", "x.safetensors"),
            "org/name/x.safetensors",
        ),
        (
            "https://civitai.com/models/12/some-name?x=1&modelVersionId=345",
            WebFile("https://civitai.com/api/download/models/345", "civitai.com"),
            "345",
        ),
        (
            "https://civitai.com/api/download/models/345?type=Model&token=secret",
            WebFile("https://civitai.com/api/download/models/345?type=Model&token=secret", "civitai.com"),
            "345",
        ),
        (
            "https://Files.Example.com:443/a/my%20lora.safetensors?sig=secret",
            WebFile("https://files.example.com/a/my%20lora.safetensors?sig=secret", "files.example.com"),
            "my lora.safetensors",
        ),
        (
            "https://files.example.com/a%0a%1b[31m.safetensors",
            WebFile("https://files.example.com/a%0a%1b[31m.safetensors", "files.example.com"),
            "a[31m.safetensors",
        ),
        (
            "https://huggingface.co/org/name/resolve/main/a%0a%1b[31m.safetensors",
            HubFile("org/name", "main", "a\n\x1b[31m.safetensors"),
            "org/name/a[31m.safetensors",
        ),
        ("https://files.example.com", WebFile("https://files.example.com/", "files.example.com"), "files.example.com"),
        ("/volume/own.safetensors", LocalFile(Path("/volume/own.safetensors")), "own"),
    ],
)
def test_what_a_text_names(text: str, source: LoraSource, label: str) -> None:
    assert lora_source(text) == source
    assert source.label == label
    assert "secret" not in source.label


def test_a_file_is_picked_out_of_a_repository_or_a_folder() -> None:
    assert lora_source("org/name", "x.safetensors") == HubFile("org/name", None, "x.safetensors")
    assert lora_source("/volume/loras", "x.safetensors") == LocalFile(Path("/volume/loras/x.safetensors"))
    with pytest.raises(ValueError, match="a URL names its file"):
        lora_source("https://files.example.com/a.safetensors", "x.safetensors")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ghibli",
        "http://files.example.com/a.safetensors",
        "https://user@files.example.com/a",
        "https://files.example.com:8443/a",
        "https://files.example.com\\@evil.example/a",
        "https://[::1]/a",
        "https://füchse.example/a",
        "https:///a",
        "ftp://files.example.com/a",
        "file:///etc/passwd",
        "../../etc/passwd",
        "org/../name",
        "org/name/x.safetensors",
        "org/name@../../x",
    ],
)
def test_what_names_nothing(text: str) -> None:
    with pytest.raises(ValueError, match="must be a hub id"):
        lora_source(text)


@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        ("org/name", {"hub", "huggingface.co"}),
        ("https://huggingface.co/org/name/resolve/main/x.safetensors", {"hub", "huggingface.co"}),
        ("https://civitai.com/api/download/models/1", {"civitai", "civitai.com"}),
        ("https://files.example.com/x", {"files.example.com", ".example.com"}),
        ("https://example.com/x", {"example.com"}),
        ("https://evilexample.com/x", set()),
        ("https://files.example.com.evil.org/x", set()),
        ("/etc/passwd", set()),
    ],
)
def test_a_client_may_name_what_is_allowed_and_nothing_else(text: str, allowed: set[str]) -> None:
    every = {"hub", "huggingface.co", "civitai", "civitai.com", "files.example.com", ".example.com", "example.com"}
    assert {one for one in every if is_allowed(lora_source(text), (one,))} == allowed
    assert not is_allowed(lora_source(text), ())
