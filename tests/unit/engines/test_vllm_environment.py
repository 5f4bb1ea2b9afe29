"""What vLLM's processes are started with, and what is left of it here."""

from __future__ import annotations

import multiprocessing
import os
import threading
from multiprocessing import spawn

import pytest

from openllm.config.model import LoadOptions
from openllm.engines.vllm_load import environment, spawning_with, threads_of


def test_the_environment_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEPT", "before")
    monkeypatch.setenv("REMOVED", "before")
    monkeypatch.delenv("ADDED", raising=False)
    with environment({"KEPT": "meanwhile"}):
        assert os.environ["KEPT"] == "meanwhile"
        os.environ["ADDED"] = "by vLLM"
        del os.environ["REMOVED"]
    assert os.environ["KEPT"] == "before"
    assert os.environ["REMOVED"] == "before"
    assert "ADDED" not in os.environ


def test_spawned_processes_import_our_module_and_not_the_program() -> None:
    with spawning_with("some.module"):
        data = spawn.get_preparation_data("name")
        assert data["init_main_from_name"] == "some.module"
        assert "init_main_from_path" not in data
    assert spawn.get_preparation_data("name").get("init_main_from_name") != "some.module"


def test_those_that_other_threads_spawn_are_left_alone() -> None:
    found = {}
    with spawning_with("some.module"):
        thread = threading.Thread(target=lambda: found.update(spawn.get_preparation_data("name")))
        thread.start()
        thread.join()
    assert found["name"] == "name"
    assert found.get("init_main_from_name") != "some.module"


def test_our_module_can_be_the_first_of_a_spawned_process() -> None:
    with spawning_with("openllm.engines.vllm_child"):
        process = multiprocessing.get_context("spawn").Process(target=os.getpid)
        process.start()
    process.join(30)
    assert process.exitcode == 0


def test_threads_are_those_asked_for_or_one_a_core() -> None:
    assert threads_of(LoadOptions(threads=3)) == 3
    assert 1 <= threads_of(LoadOptions()) <= len(os.sched_getaffinity(0))
