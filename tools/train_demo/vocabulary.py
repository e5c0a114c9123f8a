"""The vocabulary and the two tokenizers of the demo models. Knows words; knows no weights.

Both are made from this file alone, in the formats of the large models: CLIP's byte-level BPE (vocab.json, merges.txt)
and T5's Unigram model. A common word is one token, anything else falls back to characters or bytes.
"""

import json
from pathlib import Path
from typing import Any

_WORD_LIST = """
a an the of in on at to from with and or by for into over under near behind beside between against front one two that
is are no not very without left right top bottom centre center middle upper lower corner side up down upwards
downwards background foreground red orange yellow green cyan turquoise blue purple violet pink black white gray grey
brown gold magenta dark light bright colour color colours colors colourful circle disc ball dot square box triangle
star rectangle ring cross heart shape thing object small little tiny large big huge round still moving moves move
going sliding flying turning turns turn spinning spins rotating around growing grows grow getting bigger larger
smaller shrinking photo picture image painting drawing illustration portrait landscape video clip animation cinematic
realistic detailed beautiful quality high low best sharp soft blurry simple minimal flat design clean edges style
digital vector art 4k studio close view scene lighting cat dog bird horse fish fox astronaut robot man woman person
people girl boy face house city street forest tree mountain sea ocean beach river lake sky cloud sun sunset moon night
day rain snow fire water flower garden road car train boat ship castle coffee apple
"""
WORDS: tuple[str, ...] = tuple(_WORD_LIST.split())
"""Words that are one token each; the rest of a prompt is spelled out."""


def byte_characters() -> list[str]:
    """GPT-2's printable stand-ins for the 256 byte values, in byte order (openai/gpt-2, `bytes_to_unicode`)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    spare = iter(range(256, 512))
    return [chr(byte if byte in printable else next(spare)) for byte in range(256)]


def write_clip_tokenizer(folder: Path, padding: str) -> None:
    """Write `vocab.json` and `merges.txt` of a CLIP tokenizer; `padding` differs between SDXL's two encoders."""
    from transformers import CLIPTokenizer

    base = byte_characters()
    merges: dict[tuple[str, str], None] = {}
    tokens: dict[str, None] = dict.fromkeys([*base, *(character + "</w>" for character in base)])
    for word in WORDS:
        pieces = [*word[:-1], word[-1] + "</w>"]
        while len(pieces) > 1:
            # From the left, so that words with the same start share their merges.
            merges[pieces[0], pieces[1]] = None
            pieces[:2] = [pieces[0] + pieces[1]]
            tokens[pieces[0]] = None
    vocabulary = {token: index for index, token in enumerate([*tokens, "<|startoftext|>", "<|endoftext|>"])}
    pairs: Any = list(merges)  # what the vendor's annotation leaves out
    tokenizer = CLIPTokenizer(
        vocab=vocabulary,
        merges=pairs,
        pad_token=padding,
        model_max_length=77,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.save_pretrained(folder)
    folder.joinpath("vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(f"{left} {right}" for left, right in merges)]
    folder.joinpath("merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def clip_vocabulary_size(folder: Path) -> int:
    """Entries of the `vocab.json` in `folder`; the last two are the start and the end of a text."""
    return len(json.loads(folder.joinpath("vocab.json").read_text(encoding="utf-8")))


def write_t5_tokenizer(folder: Path) -> int:
    """Write a T5 tokenizer over a Unigram model; returns the size of its vocabulary."""
    from transformers import T5Tokenizer

    characters = [chr(code) for code in range(33, 127)]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -20.0), ("▁", -6.0)]
    pieces += [(character, -9.0) for character in characters]
    pieces += [("▁" + word, -5.0) for word in WORDS]
    tokenizer = T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=512)
    tokenizer.save_pretrained(folder)
    return len(pieces)
