"""Sizes as people read them."""

from __future__ import annotations

import pytest

from openllm.sizes import size_text

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
