"""The weights of a model folder: which files they are, and that each is whole.

Only headers are read. The layout of a file: 8 bytes with the length of the header, little endian;
the header, a JSON object that gives each tensor its type, shape and range of bytes; the bytes of
all tensors, without gaps (https://github.com/huggingface/safetensors, "Format").
"""

from __future__ import annotations

import math
import os
from collections import Counter
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from openllm.models.folder_files import FolderFiles
from openllm.models.gguf_window import shown

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
MAX_HEADER_BYTES = 100_000_000
MAX_INDEX_BYTES = 100_000_000

# fmt: off
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "F16": 16, "BF16": 16, "U32": 32, "I32": 32,
    "F32": 32, "U64": 64, "I64": 64, "F64": 64, "C64": 64, "F8_E4M3": 8, "F8_E5M2": 8,
    "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4,
}
# fmt: on
_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}

# Formats that are pickles, or that transformers cannot read without one.
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".pkl", ".pickle")


class Weights(Struct, frozen=True, kw_only=True):
    """The files that hold the weights, their bytes, and the type most of them have.

    `dtype` is a name of PyTorch's, "" where most weights are of another type, as if quantized;
    `types` are the bytes of each type by its name in the files, such as "BF16"; `tensors` are the
    shapes of all tensors by name, () of those that may be packed, and `listing` is the file that
    gives them.
    """

    files: tuple[str, ...]
    size: int
    dtype: str
    types: dict[str, int]
    tensors: dict[str, tuple[int, ...]] = {}
    listing: str = ""


UNREAD = Weights(files=(), size=0, dtype="", types={})


# Without bounds, the product of a shape could take all time and memory.
_Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class _Tensor(Struct, frozen=True):
    dtype: str
    shape: Annotated[tuple[_Count, ...], Meta(max_length=16)]
    data_offsets: tuple[_Count, _Count]


class _Index(Struct, frozen=True):
    weight_map: dict[str, str]


_HEADER = msgspec.json.Decoder(dict[str, msgspec.Raw])
_TENSOR = msgspec.json.Decoder(_Tensor)


def read_weights(files: FolderFiles) -> Weights:
    """Find the weights as transformers does and check each file's header against its length.

    Raises:
        ModelFileError: There are none, a file is missing, truncated or damaged, or the index does
            not fit the files; nothing but JSON has been read.
    """
    places = _index(files)
    single = files.size(SINGLE) is not None
    names = (SINGLE,) if single else tuple(sorted(set(places.values())))
    if not names:
        _refuse_other_weights(files)
    types: Counter[str] = Counter()
    known: dict[str, tuple[int, ...]] = {}
    for name in names:
        tensors = _read_header(files, name)
        for key, tensor in tensors.items():
            known[key] = tensor.shape if tensor.dtype in _DTYPES else ()
            types[tensor.dtype] += tensor.data_offsets[1] - tensor.data_offsets[0]
        if not single:
            _check_places(files, name, places, tensors)
    most = types.most_common(1)[0][0] if types else ""
    sizes = [files.size(name) or 0 for name in names]
    return Weights(
        files=names,
        size=sum(sizes),
        dtype=_DTYPES.get(most, ""),
        types=dict(types),
        tensors=known,
        listing=SINGLE if single else INDEX,
    )


def read_shapes(files: FolderFiles, name: str) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor in a file; raises `ModelFileError` if it is damaged."""
    return {key: tensor.shape for key, tensor in _read_header(files, name).items()}


def _index(files: FolderFiles) -> dict[str, str]:
    """Return which file each tensor is in; empty where there is no index."""
    content = files.content(INDEX, MAX_INDEX_BYTES)
    if content is None:
        return {}
    try:
        places = msgspec.json.decode(content, type=_Index).weight_map
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        files.fail(INDEX, f"is no index of weights ({error}); download it again")
    if not places:
        files.fail(INDEX, "names no tensor; download it again")
    for name in sorted(set(places.values())):
        _check_shard(files, name)
    return places


def _check_shard(files: FolderFiles, name: str) -> None:
    inside = os.path.basename(name) == name and "\\" not in name and "\0" not in name
    if not inside or name in ("", ".", ".."):
        files.fail(INDEX, f"names {shown(name)}, which is no file in its folder; do not trust it")
    if not name.endswith(".safetensors"):
        files.fail(INDEX, f"names {shown(name)}, which is not safetensors; convert the weights")
    if files.size(name) is None:
        files.fail(INDEX, f"names {shown(name)}, which is missing; download it again")


def _check_places(
    files: FolderFiles, name: str, places: dict[str, str], tensors: dict[str, _Tensor]
) -> None:
    for tensor, place in places.items():
        if place == name and tensor not in tensors:
            files.fail(name, f"lacks {shown(tensor)}, which {INDEX} puts there; download both")


def _refuse_other_weights(files: FolderFiles) -> None:
    """Say what the folder has instead of weights that can be read."""
    first = next((name for name in files.names if name.endswith(".safetensors")), None)
    if first is not None:
        files.fail(first, f"is not named by {INDEX}, and there is no {SINGLE}; add the index")
    pickle = next((name for name in files.names if name.endswith(_PICKLES)), None)
    if pickle is not None:
        files.fail(
            pickle,
            "is no safetensors file, and files of its kind can run code when opened; convert it:"
            " where you trust it, load it with transformers and call model.save_pretrained(folder)",
        )
    gguf = next((name for name in files.names if name.endswith(".gguf")), None)
    if gguf is not None:
        files.fail(gguf, "is the only model in its folder; give its path instead of the folder's")
    files.fail(SINGLE, f"does not exist, nor does {INDEX}; download the weights")


def _read_header(files: FolderFiles, name: str) -> dict[str, _Tensor]:
    size = files.size(name) or 0
    start = files.part(name, 0, 8)
    length = int.from_bytes(start, "little")
    if start == b"version ":
        files.fail(name, "is a pointer of Git LFS, not the weights; run: git lfs pull")
    if length > min(size - 8, MAX_HEADER_BYTES) or length < 2:
        files.fail(name, f"is damaged or truncated: it has {size} bytes; download it again")
    content = files.part(name, 8, length)
    try:
        entries = _HEADER.decode(content)
        entries.pop("__metadata__", None)
        tensors = {key: _TENSOR.decode(value) for key, value in entries.items()}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        files.fail(name, f"has a damaged header ({error}); download it again")
    _check_ranges(files, name, tensors, size - 8 - length)
    return tensors


def _check_ranges(
    files: FolderFiles, name: str, tensors: dict[str, _Tensor], available: int
) -> None:
    """Fail unless the tensors fill the `available` bytes, each as many as its shape takes."""
    position = 0
    for key, tensor in sorted(tensors.items(), key=lambda item: item[1].data_offsets):
        bits = _BITS.get(tensor.dtype)
        if bits is None:
            files.fail(name, f"has {shown(key)} in the unknown type {shown(tensor.dtype)}")
        begin, end = tensor.data_offsets
        if begin != position:
            files.fail(name, f"is damaged: {shown(key)} begins at {begin}, expected {position}")
        if math.prod(tensor.shape) * bits != (end - begin) * 8:
            files.fail(name, f"is damaged: {shown(key)} has {end - begin} bytes, not its shape's")
        position = end
    if position != available:
        state = "truncated" if position > available else "damaged"
        files.fail(
            name,
            f"is {state}: its tensors take {position} bytes and {available} follow the header;"
            " download it again",
        )
