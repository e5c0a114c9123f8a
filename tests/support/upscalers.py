"""Names and shapes of published upscalers' tensors, as facts: https://github.com/xinntao/ESRGAN and Real-ESRGAN."""

from collections.abc import Callable

from worker.engine.models.upscaler_file import Layout

Shapes = dict[str, tuple[int, ...]]
Naming = Callable[[str, Layout], str]


def rrdb(found: Layout, name: Naming) -> Shapes:
    """Return the tensors of an RRDBNet, in the names that `name` gives."""
    f, g, colours = found.features, found.growth, 3 * found.unshuffle**2
    convolutions = {"conv_first": (f, colours)}
    for block in range(found.blocks):
        for dense in (1, 2, 3):
            for k in range(5):
                convolutions[f"body.{block}.rdb{dense}.conv{k + 1}"] = (g if k < 4 else f, f + k * g)
    convolutions |= dict.fromkeys(("conv_body", *(f"conv_up{k + 1}" for k in range(found.doublings))), (f, f))
    convolutions |= {"conv_hr": (f, f), "conv_last": (3, f)}
    shapes: Shapes = {}
    for ours, (out, into) in convolutions.items():
        shapes[f"{name(ours, found)}.weight"] = (out, into, 3, 3)
        shapes[f"{name(ours, found)}.bias"] = (out,)
    return shapes


def REAL(name: str, _found: Layout) -> str:  # noqa: N802 - one of three constants
    """Name a tensor as Real-ESRGAN and BasicSR do."""
    return name


def MIDDLE(name: str, _found: Layout) -> str:  # noqa: N802 - as above
    """Name a tensor as ESRGAN's `RRDBNet_arch.py` does."""
    called = {"conv_body": "trunk_conv", "conv_up1": "upconv1", "conv_up2": "upconv2", "conv_hr": "HRconv"}
    if name.startswith("body."):
        return name.replace("body.", "RRDB_trunk.").replace("rdb", "RDB")
    return called.get(name, name)


def ORIGINAL(name: str, found: Layout) -> str:  # noqa: N802 - as above
    """Name a tensor by its place in one sequence: first convolution, shortcut, an upsampling, convolution and
    activation per doubling, then two last convolutions with an activation between.
    """
    if name.startswith("body."):
        _, block, dense, convolution = name.split(".")
        return f"model.1.sub.{block}.{dense.upper()}.{convolution}.0"
    places = {"conv_first": "0", "conv_body": f"1.sub.{found.blocks}"}
    places |= {f"conv_up{k + 1}": str(3 * k + 3) for k in range(found.doublings)}
    places |= {"conv_hr": str(3 * found.doublings + 2), "conv_last": str(3 * found.doublings + 4)}
    return f"model.{places[name]}"


def COMPACT(found: Layout) -> Shapes:  # noqa: N802 - as above
    """Return the tensors of an SRVGGNetCompact."""
    f, last = found.features, 2 * found.blocks + 2
    shapes: Shapes = {"body.0.weight": (f, 3, 3, 3), "body.0.bias": (f,), "body.1.weight": (f,)}
    for k in range(found.blocks):
        shapes |= {f"body.{2 * k + 2}.weight": (f, f, 3, 3), f"body.{2 * k + 2}.bias": (f,)}
        shapes[f"body.{2 * k + 3}.weight"] = (f,)
    colours = 3 * found.scale**2
    return shapes | {f"body.{last}.weight": (colours, f, 3, 3), f"body.{last}.bias": (colours,)}
