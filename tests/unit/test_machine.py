"""What is left here: memory and cores within the limits of the containers around, and cards."""

from __future__ import annotations

import sys
from pathlib import Path

import psutil
import pytest

from openllm import machine
from openllm.machine import free_cards, free_memory, memory_limit, usable_cores

MIB = 1 << 20


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "cgroup"
    root.mkdir()
    monkeypatch.setattr(machine, "_CGROUPS", root)
    monkeypatch.setattr(machine, "_OWN_CGROUP", tmp_path / "own")
    return root


def limit(folder: Path, most: str, used: int, pages: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{most}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 5\ninactive_file {pages}\nactive_file 7\n")


def test_without_a_container_the_machine_is_all_there_is(groups: Path) -> None:
    available = psutil.virtual_memory().available
    assert abs(free_memory() - available) < 512 * MIB


def test_the_container_around_counts(groups: Path, tmp_path: Path) -> None:
    (tmp_path / "own").write_text("0::/\n")
    limit(groups, str(100 * MIB), 70 * MIB, 20 * MIB)
    assert free_memory() == 50 * MIB


def test_the_tightest_group_above_counts(groups: Path, tmp_path: Path) -> None:
    (tmp_path / "own").write_text("0::/system.slice/app.scope\n")
    limit(groups / "system.slice" / "app.scope", "max", 1)
    limit(groups / "system.slice", str(80 * MIB), 70 * MIB)
    assert free_memory() == 10 * MIB


def test_the_older_kind_of_group_counts(groups: Path, tmp_path: Path) -> None:
    (tmp_path / "own").write_text("5:cpu,cpuacct:/x\n4:memory:/docker/1\n1:name=systemd:/x\n")
    folder = groups / "memory" / "docker" / "1"
    folder.mkdir(parents=True)
    (folder / "memory.limit_in_bytes").write_text(f"{90 * MIB}\n")
    (folder / "memory.usage_in_bytes").write_text(f"{80 * MIB}\n")
    (folder / "memory.stat").write_text(f"inactive_file 1\ntotal_inactive_file {5 * MIB}\n")
    assert free_memory() == 15 * MIB


def test_a_group_that_has_used_more_than_its_limit_has_nothing_left(
    groups: Path, tmp_path: Path
) -> None:
    (tmp_path / "own").write_text("0::/\n")
    limit(groups, str(MIB), 3 * MIB)
    assert free_memory() == 0


def test_limits_are_those_of_all_groups_above(groups: Path, tmp_path: Path) -> None:
    limit(groups / "a", str(300 * MIB), 0)
    limit(groups / "a" / "b", "max", 0)
    (groups / "a" / "b" / "cpu.max").write_text("50000 100000\n")
    (tmp_path / "own").write_text("0::/a/b\n")
    assert memory_limit() == 300 * MIB
    assert usable_cores() == 0.5
    (tmp_path / "own").unlink()
    assert memory_limit() is None
    assert usable_cores() >= 1


def fake_smi(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    path = folder / "nvidia-smi"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    monkeypatch.setattr(machine, "_NVIDIA", folder)


@pytest.mark.parametrize(
    ("visible", "free"),
    [
        (None, (81000 * MIB, 500 * MIB)),
        ("1", (500 * MIB,)),
        ("1,0", (500 * MIB, 81000 * MIB)),
        ("7", ()),
        ("", ()),
        ("-1", ()),
    ],
)
def test_cards_are_asked_by_nvidia_smi(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    visible: str | None,
    free: tuple[int, ...],
) -> None:
    fake_smi(tmp_path, monkeypatch, "echo 'H200, 90000, 81000, 1, 9.0'; echo 'H200, 90000, 500'")
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert free_cards() == free


TWINS = "echo 'H200, 9, 8, 1, 9.0, GPU-aa11-22'; echo 'H200, 9, 5, 1, 9.0, GPU-ab33-44'"


@pytest.mark.parametrize(
    ("visible", "free"),
    [
        ("GPU-ab33-44", (5 * MIB,)),
        ("GPU-ab", (5 * MIB,)),
        ("GPU-ab,GPU-aa", (5 * MIB, 8 * MIB)),
        ("1, GPU-aa", (5 * MIB, 8 * MIB)),
        ("GPU-a", ()),
        ("GPU-cc", ()),
        ("MIG-GPU-aa11-22/1/0", None),
        ("MIG-5c2f", None),
        ("0,MIG-5c2f,1", None),
        ("0,-1,1", (8 * MIB,)),
        ("0,7,1", (8 * MIB,)),
        (",", ()),
    ],
)
def test_cards_are_chosen_as_cuda_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, visible: str, free: tuple[int, ...] | None
) -> None:
    fake_smi(tmp_path, monkeypatch, TWINS)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert free_cards() == free


@pytest.mark.parametrize(
    "script",
    [
        "exit 9",
        "echo failed; exit 1",
        "echo 'GB10, [N/A], [N/A], 1, 12'",
        "echo 'H200, 9, 8, 1, 9.0'; echo 'H200, 9, [N/A], 1, 9.0'",
    ],
)
def test_cards_of_which_nothing_is_known_are_not_taken_for_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    fake_smi(tmp_path, monkeypatch, script)
    assert free_cards() is None
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert free_cards() == ()


def test_a_machine_without_a_card_is_not_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "_NVIDIA", tmp_path / "none")
    monkeypatch.setattr(machine, "_AMD", tmp_path / "none")
    monkeypatch.setitem(sys.modules, "torch", None)
    assert free_cards() == ()


def test_without_nvidia_smi_nothing_is_known_of_a_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(machine, "_NVIDIA", tmp_path)
    # Asking torch would start CUDA in this process.
    monkeypatch.setitem(sys.modules, "torch", None)
    assert free_cards() is None


@pytest.mark.parametrize(("build", "free"), [("2.13.0+rocm7.1", None), ("2.13.0+cpu", ())])
def test_a_card_of_amds_counts_if_torch_computes_on_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, build: str, free: tuple[int, ...] | None
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(machine, "_NVIDIA", tmp_path / "none")
    monkeypatch.setattr(machine, "_AMD", tmp_path)
    monkeypatch.setattr(machine, "version", lambda _: build)
    assert free_cards() == free
