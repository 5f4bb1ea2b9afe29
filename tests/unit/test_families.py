"""The table of model families: what the documents list, and that nothing in it has two meanings."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.resources import files
from typing import Any

import pytest

from openllm.errors import ConfigurationError
from openllm.llm.settings import model_settings
from openllm.models.families import (
    families,
    family_of,
    family_of_id,
    find,
    support_of,
    why_not,
)
from openllm.models.family import Library, index_of, read_rows
from openllm.models.locate import expand
from openllm.models.ref import parse_ref
from openllm.models.registry import Registry

# What the documents print for each family: its architecture and a model of it.
LISTED = {
    "baichuan": ("BaichuanForCausalLM", "baichuan-inc/baichuan2-7b-chat"),
    "chatglm": ("ChatGLMModel", "thudm/chatglm2-6b-int4"),
    "dolly_v2": ("GPTNeoXForCausalLM", "databricks/dolly-v2-3b"),
    "falcon": ("FalconForCausalLM", "tiiuae/falcon-40b-instruct"),
    "flan_t5": ("T5ForConditionalGeneration", "google/flan-t5-large"),
    "gpt_neox": ("GPTNeoXForCausalLM", "eleutherai/gpt-neox-20b"),
    "llama": ("LlamaForCausalLM", "NousResearch/llama-2-70b-hf"),
    "mistral": ("MistralForCausalLM", "mistralai/Mistral-7B-v0.1"),
    "mixtral": ("MixtralForCausalLM", "mistralai/Mixtral-8x7B-v0.1"),
    "mpt": ("MPTForCausalLM", "mosaicml/mpt-30b-chat"),
    "opt": ("OPTForCausalLM", "facebook/opt-1.3b"),
    "phi": ("PhiForCausalLM", "microsoft/phi-1_5"),
    "qwen": ("QWenLMHeadModel", "qwen/Qwen-14B-Chat"),
    "stablelm": ("GPTNeoXForCausalLM", "stabilityai/stablelm-base-alpha-3b"),
    "starcoder": ("GPTBigCodeForCausalLM", "bigcode/starcoderbase"),
    "yi": ("YiForCausalLM", "01-ai/Yi-34B"),
}
NO_CTRANSLATE = {"baichuan", "chatglm", "phi", "qwen", "yi"}
WITH_EXTRA = {"baichuan", "chatglm", "falcon", "mpt", "qwen", "starcoder"}


def family(name: str) -> Any:
    found = find(name)
    assert found is not None, name
    return found


@pytest.mark.spec("S4-23")
@pytest.mark.parametrize("name", LISTED)
def test_lists_the_documents_families(name: str) -> None:
    row = family(name)
    assert row in families()
    assert (row.name, row.architecture, row.example_id) == (name, *LISTED[name])


@pytest.mark.spec("S4-24")
@pytest.mark.parametrize("name", LISTED)
def test_lists_the_documents_backends(name: str) -> None:
    expected = ["pt", "vllm", "ctranslate"]
    if name == "flan_t5":
        expected = ["pt"]
    elif name in NO_CTRANSLATE:
        expected = ["pt", "vllm"]
    assert list(family(name).backends) == expected


@pytest.mark.spec("S4-25")
@pytest.mark.parametrize("name", LISTED)
def test_says_what_to_install(name: str) -> None:
    extra = f'"open-llm-server[{name}]"' if name in WITH_EXTRA else "open-llm-server"
    assert family(name).installation == f"pip install {extra}"


@pytest.mark.spec("S0-03")
@pytest.mark.parametrize("name", ["dolly", "flan-t5", "bloom", "stablelm", "gpt-neox", "llama"])
def test_known_families_have_a_default_model(name: str) -> None:
    organisation, _, model = family(name).model_id.partition("/")
    assert organisation
    assert model


@pytest.mark.spec("S0-03")
def test_dolly_is_pinned() -> None:
    dolly = family("dolly")
    assert dolly.model_id == "databricks/dolly-v2-7b"
    assert len(dolly.revision) == 40
    assert set(dolly.revision) <= set("0123456789abcdef")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("flan_t5", "flan_t5"),
        ("flan-t5", "flan_t5"),
        ("Flan-T5", "flan_t5"),
        ("dolly-v2", "dolly_v2"),
        ("gpt-neox", "gpt_neox"),
        ("qwen2.5", "qwen2"),
        ("gpt-oss", "gpt_oss"),
        ("qwen2_5", "qwen2"),
        ("qwen1.5", "qwen1_5"),
        ("qwen3.5", "qwen3_5"),
    ],
)
def test_both_spellings_are_found(name: str, meant: str) -> None:
    assert family(name).name == meant


def test_unknown_names_are_not_found() -> None:
    assert find("flan") is None
    assert find("") is None
    assert family_of("FlanForCausalLM") is None
    assert support_of("FlanForCausalLM") is None
    assert why_not("FlanForCausalLM", "torch") is None


@pytest.mark.parametrize(
    ("architecture", "owner"),
    [
        ("GPTNeoXForCausalLM", "gpt_neox"),  # And not dolly_v2 or stablelm, which have it too.
        ("StableLmForCausalLM", "stablelm"),
        ("LLaMAForCausalLM", "llama"),
        ("MptForCausalLM", "mpt"),
        ("MT5ForConditionalGeneration", "flan_t5"),
        ("Olmo2ForCausalLM", "olmo"),
    ],
)
def test_an_architecture_has_one_family(architecture: str, owner: str) -> None:
    found = family_of(architecture)
    assert found is not None
    assert found.name == owner


def test_families_that_share_an_architecture_run_on_the_same_engines() -> None:
    assert family("pythia").architecture == family("gpt_neox").architecture
    assert family("pythia").backends == ("pt", "vllm")
    support = support_of("GPTNeoXForCausalLM")
    assert support is not None
    assert support.runs_on == ("torch", "vllm")


def test_backends_of_newer_families_are_what_runs_them() -> None:
    assert family("qwen3").backends == ("pt", "vllm", "llamacpp")
    assert family("phi3").backends == ("pt", "vllm")
    assert family("lfm2").backends == ("vllm",)


GONE: list[tuple[str, Library, str]] = [
    ("QWenLMHeadModel", "torch", "transformers 4.37"),
    ("QWenLMHeadModel", "vllm", "vLLM 0.23.0"),
    ("BaichuanForCausalLM", "torch", "transformers 4.33"),
    ("BaichuanForCausalLM", "vllm", "vLLM 0.23.0"),
    ("YiForCausalLM", "torch", "transformers 4.34"),
    ("YiForCausalLM", "vllm", "vLLM 0.3.0"),
    ("ChatGLMModel", "torch", "transformers 4.33"),
    ("MPTForCausalLM", "vllm", "vLLM 0.28.0"),
    ("RWForCausalLM", "vllm", "vLLM 0.28.0"),
    ("StableLMEpochForCausalLM", "vllm", "vLLM 0.28.0"),
]


@pytest.mark.parametrize(("architecture", "engine", "version"), GONE)
def test_what_no_longer_runs_names_the_version_that_did(
    architecture: str, engine: Library, version: str
) -> None:
    message = why_not(architecture, engine)
    assert message is not None
    assert architecture in message
    assert version in message
    assert "Use " in message


def test_only_what_does_not_run_has_a_reason_why_not() -> None:
    engines: tuple[Library, ...] = ("torch", "vllm")
    for row in families():
        for support in row.architectures:
            for name in support.names:
                for engine in engines:
                    message = why_not(name, engine)
                    assert (message is None) == (engine in support.runs_on), (name, engine)


def table(*rows: dict[str, Any]) -> bytes:
    return json.dumps(rows).encode()


def row(name: str = "one", architecture: str = "OneModel", **changes: Any) -> dict[str, Any]:
    support = {"names": [architecture], "runs_on": ["torch", "vllm"]}
    made = {"name": name, "architecture": architecture, "example_id": "org/model"}
    return {**made, "model_types": [name], "architectures": [support], **changes}


def test_a_good_table_is_read() -> None:
    index = index_of(read_rows(table(row(), row("two", "TwoModel"))))
    assert [each.name for each in index.families] == ["one", "two"]


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        ([row(), row()], "There is a model family 'one' already"),
        ([row("a-b"), row("two", "TwoModel", aliases=["a_b"])], "'a_b' stands twice"),
        ([row(), row("two", "OneModel")], "'OneModel' stands twice"),
        ([row(), row("two", "TwoModel", model_types=["one"])], "'one' stands twice"),
        ([row(), row("two", "Other", architectures=[])], "'Other', which is in no family's list"),
        (
            [row(architectures=[{"names": ["OneModel"], "runs_on": []}])],
            "'OneModel' lacks an engine",
        ),
        ([row(colour="red")], "damaged"),
        ([row(backends="tensorrt")], "damaged"),
        ([row(architectures=[{"names": ["A"], "runs_on": [], "why": {"x": "y"}}])], "damaged"),
        ([{"name": "one"}], "damaged"),
    ],
)
def test_a_table_with_two_meanings_is_refused(rows: list[dict[str, Any]], complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(complaint)):
        index_of(read_rows(table(*rows)))


def test_the_table_is_data_of_the_package() -> None:
    data = files("openllm.models").joinpath("families.json").read_bytes()
    assert [each.name for each in read_rows(data)] == [each.name for each in families()]


def test_reading_the_table_loads_little() -> None:
    code = (
        "import sys; from openllm.models.families import find; find('llama'); print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True
    )
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert not loaded & {"torch", "transformers", "vllm", "pydantic", "bentoml", "xllamacpp"}


@pytest.mark.spec("S0-03")
def test_every_name_and_size_means_a_model_on_the_hub() -> None:
    for row in families():
        names = [row.name, row.name.replace("_", "-"), *row.aliases]
        for name in [*names, *(f"{row.name}:{size}" for size in row.sizes)]:
            ref = expand(parse_ref(name), Registry())
            assert ref.kind == "hub", name
            assert ref.served_name == name


@pytest.mark.spec("S0-03")
def test_default_models_are_pinned_to_a_commit() -> None:
    for row in families():
        ref = expand(parse_ref(row.name), Registry())
        assert (ref.repo, ref.revision) == (row.model_id, row.revision), row.name
        assert re.fullmatch("[0-9a-f]{40}", row.revision), row.name
    commits = [row.revision for row in families()]
    assert len(set(commits)) == len(commits)


def test_a_size_that_is_the_default_model_is_at_its_commit() -> None:
    dolly = family("dolly")
    assert dolly.revision == "d632f0c8b75b1ae5b26b250d25bfba4e99cb7c6f"
    assert expand(parse_ref("dolly:7b"), Registry()).revision == dolly.revision
    assert expand(parse_ref("dolly:3b"), Registry()).revision == ""
    assert expand(parse_ref(dolly.model_id), Registry()).revision == ""  # As it was typed.


def test_defaults_are_settings_of_a_model() -> None:
    for row in families():
        config = model_settings(parse_ref(row.name), {}, {}).config
        for name, value in row.defaults.items():
            assert getattr(config.defaults, name) == value, row.name


def test_names_that_were_one_familys_aliases_mean_what_they_say() -> None:
    meant = {
        "smollm2": "HuggingFaceTB/SmolLM2-1.7B-Instruct",
        "vicuna": "lmsys/vicuna-7b-v1.5",
        "pythia:70m": "EleutherAI/pythia-70m",
        "deepseek-r1": "deepseek-ai/DeepSeek-R1",
        "phi-4": "microsoft/Phi-4-mini-instruct",
        "stablelm-2": "stabilityai/stablelm-2-1_6b-chat",
        "qwen1.5:0.5b": "Qwen/Qwen1.5-0.5B-Chat",
        "qwen2.5": "Qwen/Qwen2.5-7B-Instruct",
        "llama-3": "meta-llama/Llama-3.1-8B-Instruct",
        "llama-4": "meta-llama/Llama-4-Scout-17B-16E-Instruct",
    }
    for name, repo in meant.items():
        assert expand(parse_ref(name), Registry()).repo == repo


def test_an_id_belongs_to_the_family_that_lists_it() -> None:
    for model_id, name in (
        ("google/flan-t5-XL", "flan_t5"),
        ("databricks/dolly-v2-7b", "dolly_v2"),
        ("Qwen/Qwen3-0.6B-GGUF", "qwen3"),
    ):
        found = family_of_id(model_id)
        assert found is not None
        assert found.name == name
    assert family_of_id("org/unknown") is None
