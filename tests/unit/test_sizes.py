"""Sizes as people read them."""

from __future__ import annotations

import pytest

from openllm.sizes import read_size, size_text

GIB = 1 << 30


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"), (999, "999 B"), (1000, "1.0 KiB"), (1536, "1.5 KiB"), (1 << 20, "1.0 MiB"),
        (1_234_567, "1.2 MiB"), (1023 << 20, "1.0 GiB"), (5 * GIB, "5.0 GiB"),
        (int(139.62 * GIB), "139.6 GiB"), (1000 * GIB, "1.0 TiB"), (1 << 62, "4096.0 PiB"),
    ],
)  # fmt: skip
def test_a_size_has_one_digit_behind_the_point_and_a_unit_of_1024(size: int, text: str) -> None:
    assert size_text(size) == text


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0), ("123", 123), ("10B", 10), ("4GiB", 4 * GIB), (" 4 gib ", 4 * GIB),
        ("10GB", 10**10), ("10g", 10**10), ("1.5m", 1_500_000), ("1.5KiB", 1536), ("0.3KB", 300),
        ("1Ti", 1 << 40), ("8589934593", (8 << 30) + 1), ("9" * 20 + "P", int("9" * 20) * 10**15),
    ],
)  # fmt: skip
def test_a_size_is_read_exactly(text: str, size: int) -> None:
    assert read_size(text) == size


@pytest.mark.parametrize(
    "text",
    ["", "GB", "-1", "+1", "1e3", "5 XB", "5GBs", "nan", ".5G", "1_0", "\u0665GB", "9" * 400],
)
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write a number of bytes, or a size such as 4GiB"):
        read_size(text)


def test_what_is_shown_can_be_read() -> None:
    for power in range(0, 60, 3):
        assert size_text(read_size(size_text(1 << power))) == size_text(1 << power)
