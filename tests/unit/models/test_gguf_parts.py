"""Models in several GGUF files: all are checked, and only the first is one that can be given."""

from __future__ import annotations

from pathlib import Path

import pytest

from openllm.errors import ModelFileError
from openllm.models.facts import facts_of
from openllm.models.gguf import read_header
from openllm.types import LocalModel
from tests.unit.models.gguf_bytes import STRING, UINT32, Metadata, Tensor, build, right_metadata

TENSORS: tuple[Tensor, ...] = (("a", (32, 4), 0, 0),)
MORE: tuple[Tensor, ...] = (("b", (32, 2), 8, 0),)


def numbered(part: int, count: int) -> Metadata:
    return {"split.no": (UINT32, part), "split.count": (UINT32, count)}


def part_name(part: int, count: int = 2) -> str:
    return f"m-{part:05d}-of-{count:05d}.gguf"


def write(folder: Path, second: Metadata | None = None) -> Path:
    first = build(right_metadata() | numbered(0, 2), TENSORS, data_size=512)
    (folder / part_name(1)).write_bytes(first.content)
    rest = build(second or numbered(1, 2), MORE, data_size=68)
    (folder / part_name(2)).write_bytes(rest.content)
    return folder / part_name(1)


def test_the_parts_are_read_as_one_model(tmp_path: Path) -> None:
    path = write(tmp_path)
    header = read_header(path)
    assert (header.tensor_count, header.parameter_count) == (2, 32 * 4 + 32 * 2)
    assert (header.data_size, header.architecture) == (512 + 68, "llama")
    facts = facts_of(LocalModel(name="m", path=str(path), format="gguf"))
    assert facts is not None
    assert facts.weight_bytes == sum(each.stat().st_size for each in tmp_path.iterdir())


def test_the_first_part_may_hold_no_tensors(tmp_path: Path) -> None:
    path = write(tmp_path)
    empty = build(right_metadata() | numbered(0, 2), (), data_size=0)
    path.write_bytes(empty.content)
    assert read_header(path).tensor_count == 1


def test_a_later_part_is_not_the_model(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(ModelFileError, match="says it is part 2 of 2, not 1: give the first"):
        read_header(tmp_path / part_name(2))


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    path = write(tmp_path)
    (tmp_path / part_name(2)).unlink()
    with pytest.raises(ModelFileError, match=r"m-00002-of-00002\.gguf does not exist"):
        read_header(path)
    with pytest.raises(ModelFileError, match=r"m-00002-of-00002\.gguf does not exist"):
        facts_of(LocalModel(name="m", path=str(path), format="gguf"))


@pytest.mark.parametrize(
    ("second", "says"),
    [
        (numbered(0, 2), "says it is part 1 of 2, not 2"),
        (numbered(1, 3), "says that there are 3 parts, not 2"),
        (right_metadata(), "says it is part 1 of 1, not 2"),
        (numbered(1, 2) | {"general.type": (STRING, "adapter")}, "is no model"),
    ],
)
def test_parts_of_another_model_are_refused(tmp_path: Path, second: Metadata, says: str) -> None:
    with pytest.raises(ModelFileError, match=says) as raised:
        read_header(write(tmp_path, second))
    assert raised.value.message.startswith(part_name(2))


@pytest.mark.parametrize("count", [2, 1025, 2**31 - 1])
def test_a_name_that_leads_to_no_parts_is_refused(tmp_path: Path, count: int) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(build(right_metadata() | numbered(0, count)).content)
    with pytest.raises(ModelFileError, match=f"is one of {count} parts"):
        read_header(path)
