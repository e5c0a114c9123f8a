"""Where the training runs: on which device, in which precision, and how what was saved comes there. Knows no data.

Tensors are made on torch's default device, which `use` sets before anything else.
"""

from pathlib import Path
from typing import Any

import torch


def use(name: str | None) -> None:
    """Train on the device of this name, as `cuda`; with None on a GPU where there is one, and else on the processor.

    Raises RuntimeError where torch has no such device.
    """
    chosen = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    torch.empty(0, device=chosen)
    if chosen.type == "cpu":
        torch.set_default_device(None)  # it is the default, and one that is set costs every call a little
        return
    torch.set_default_device(chosen)
    if chosen.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True


def quick() -> torch.autocast:
    """bfloat16 where it is multiplied in: convolutions and matrices take two thirds of the time on a processor."""
    kind = torch.get_default_device().type
    return _autocast(kind != "cpu" or torch.cpu._is_avx512_bf16_supported())


def exact() -> torch.autocast:
    """float32 again, within `quick`."""
    return _autocast(False)


def _autocast(enabled: bool) -> torch.autocast:
    kind = torch.get_default_device().type
    known = torch.amp.is_autocast_available(kind)
    return torch.autocast(kind if known else "cpu", torch.bfloat16, enabled=enabled and known)


def trained(kind: Any, folder: Path) -> Any:
    """The part that was saved in the folder, a diffusers or transformers class, in float32 and for evaluation."""
    with torch.device("cpu"):
        part = kind.from_pretrained(folder).float().eval()
    return part.to(torch.get_default_device())


def tokens(tokenizer: Any, texts: list[str], **options: Any) -> Any:
    """The texts as tensors of token ids, with their mask; what is longer than `max_length` is cut off."""
    seen = tokenizer(texts, truncation=True, return_tensors="pt", **options)
    return {name: value.to(torch.get_default_device()) for name, value in seen.items()}


def kept(path: Path) -> Any:
    """What an earlier stage or an interrupted one left in the file, wherever that was trained."""
    return torch.load(path, weights_only=True, map_location=torch.get_default_device())
