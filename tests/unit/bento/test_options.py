from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import openllm
from openllm.bento.checks import check
from openllm.bento.options import read_configuration
from openllm.config.fields import OPTION_MODELS
from openllm.errors import ConfigurationError


def refusal(**options: Any) -> str:
    with pytest.raises(ConfigurationError) as raised:
        read_configuration("demo", options, {})
    return raised.value.message


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("port", "abc", "--port 'abc' must be a whole number from 0 to 65535"),
        ("port", "5000.5", "--port '5000.5' must be a whole number from 0 to 65535"),
        ("port", -1, "--port -1 must be a whole number from 0 to 65535"),
        ("port", None, "--port null must be a whole number from 0 to 65535"),
        ("max_tokens", "0", "--max-tokens '0' must be a whole number, 1 or more"),
        ("temperature", "hot", "--temperature 'hot' must be a number from 0 to 1"),
        ("presence_penalty", "2", "--presence-penalty '2' must be a number from 0 to 1"),
        ("timeout", "inf", "--timeout 'inf' must be a number above 0 and finite"),
        ("embeddings", "maybe", "--embeddings 'maybe' must be true or false"),
        ("host", "", "--host '' must be text that is not empty"),
        ("host", 5, "--host 5 must be text that is not empty, in quotes"),
        (
            "dtype",
            "int4",
            "--dtype 'int4' must be one of auto, float32, bfloat16, float16, half, float",
        ),
        ("allowed_host", (3,), "--allowed-host 3 must be text, in quotes"),
    ],
)
def test_flag_value_and_what_is_allowed_are_named(name: str, value: object, says: str) -> None:
    assert refusal(**{name: value}) == says


def test_no_message_is_in_the_words_of_the_library() -> None:
    """Whatever field: an object that nobody can mean is refused in the house's own words."""
    for model in OPTION_MODELS:
        for name in model.model_fields:
            message = refusal(**{name: object()})
            assert message.startswith("--" + name.replace("_", "-"))
            for word in ("Input", "valid", "pars"):
                assert word not in message


def test_all_mistakes_are_told_at_once() -> None:
    assert refusal(port="a", max_concurrency="b", top_p="c").splitlines() == [
        "3 settings are wrong:",
        "- --port 'a' must be a whole number from 0 to 65535",
        "- --max-concurrency 'b' must be a whole number from 1 to 1024",
        "- --top-p 'c' must be a number from 0 to 1",
    ]


def test_a_switch_is_no_number() -> None:
    assert refusal(port=True) == "--port true must be a whole number from 0 to 65535"


@pytest.mark.parametrize("keys", [("",), (" ",), ("SECRET", "")])
def test_an_empty_key_names_the_flag_and_shows_no_key(keys: tuple[str, ...]) -> None:
    message = refusal(api_key=keys)
    assert message == "--api-key: a key is empty; give one or leave the option out"


def test_a_secret_is_never_shown() -> None:
    assert "SECRET" not in refusal(api_key="SECRET", ssl_keyfile_password="SECRET")
    assert "SECRET" not in refusal(api_key=(b"\xffSECRET",))


def test_more_workers_than_one_are_refused() -> None:
    assert refusal(workers=2).startswith("--workers 2: one API process")


FILES = ["api_key_file", "ssl_certfile", "ssl_keyfile", "ssl_ca_certs"]


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named_once(name: str, tmp_path: Path) -> None:
    certificate = tmp_path / "cert.pem"
    certificate.write_text("")
    options = {"ssl_certfile": str(certificate), name: "none.pem"}
    message = refusal(**options)
    assert message == f"--{name.replace('_', '-')} 'none.pem': there is no such file"


def test_a_path_object_is_shown_as_text() -> None:
    assert refusal(api_key_file=Path("none")) == "--api-key-file 'none': there is no such file"
    assert refusal(ssl_keyfile=Path("none")).startswith("--ssl-keyfile 'none': this needs")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    assert "this is a folder" in refusal(api_key_file=str(tmp_path))


def test_a_path_through_a_file_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "cannot be read: Not a directory" in refusal(api_key_file=str(tmp_path / "file" / "x"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ssl_keyfile", "key.pem"),
        ("ssl_keyfile_password", "sesame"),
        ("ssl_ca_certs", "ca.pem"),
        ("ssl_version", 17),
        ("ssl_cert_reqs", 1),
        ("ssl_ciphers", "ALL"),
    ],
)
def test_tls_options_need_a_certificate(name: str, value: object) -> None:
    message = refusal(**{name: value})
    assert message.startswith("--" + name.replace("_", "-"))
    assert "this needs --ssl-certfile" in message
    assert "sesame" not in message


def test_a_wrong_certificate_is_one_mistake_not_two() -> None:
    message = refusal(ssl_certfile="none.pem", ssl_ciphers="ALL")
    assert message == "--ssl-certfile 'none.pem': there is no such file"


def test_client_certificates_need_authorities(tmp_path: Path) -> None:
    certificate = tmp_path / "cert.pem"
    certificate.write_text("")
    assert "this needs --ssl-ca-certs" in refusal(ssl_certfile=certificate, ssl_cert_reqs=2)


def test_options_reach_their_settings() -> None:
    options = {"port": "0", "threads": "2", "stop_sequence": ("a", "b"), "demo.top-k": 3}
    found = read_configuration("demo", options, {})
    (entry,) = found.entries
    assert (found.server.port, entry.config.load.threads) == (0, 2)
    assert entry.config.defaults.stop_sequence == ("a", "b")
    assert entry.config.defaults.top_k == 3
    assert entry.settings["top_k"] == (3, "--opt demo.top-k", "model")


def test_other_names_of_an_option_are_good_everywhere() -> None:
    found = read_configuration("demo", {"stop": "x", "max-new-tokens": 5}, {})
    defaults = found.entries[0].config.defaults
    assert (defaults.stop_sequence, defaults.max_tokens) == (("x",), 5)
    assert "--stop-sequence and --stop set the same option; leave one out" in refusal(
        stop="x", stop_sequence="y"
    )


def start_refusal(*models: Any, **options: Any) -> str:
    with pytest.raises(ConfigurationError) as raised:
        openllm.start(*models, **options)
    return raised.value.message


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"temperature": 7}, "temperature 7 must be a number from 0 to 1"),
        ({"demo.top_k": -1}, "demo.top_k -1 must be a whole number, 0 or more"),
        ({"prot": 1}, "unknown option 'prot'; did you mean 'port'?"),
        ({"stop": "a", "stop_sequence": "b"}, "stop_sequence and stop set the same option; leave"),
        ({"device": "llama:cpu"}, "device llama:cpu: no model 'llama' is started here, only demo"),
        ({"demo.port": 1}, "demo.port: this is an option of the whole server; write port"),
        ({"dtype": "half"}, "dtype: 'demo' runs on llamacpp, which has no option 'dtype'"),
    ],
)
def test_python_is_answered_in_its_own_spelling(options: dict[str, Any], says: str) -> None:
    assert start_refusal("demo", **options).startswith(says)


@pytest.mark.parametrize(
    "models",
    [["demo"], ("demo", "llama"), Path("demo.gguf"), 5],
    ids=["list", "tuple", "path", "5"],
)
def test_models_are_text(models: object) -> None:
    told = f"openllm.start takes models and a file as text, not {models!r}; write 'demo,llama'"
    assert start_refusal(models) == told
    assert start_refusal("demo", models) == told


def test_what_is_no_tokenizer_is_told_as_one(tmp_path: Path) -> None:
    folder = Path(openllm.__file__).parent / "demo" / "safetensors"
    for text, says in (
        ("x", "--tokenizer: 'x' is no tokenizer; give a hub id such as org/name, or a folder"),
        ("a\\b", "--tokenizer: "),
    ):
        with pytest.raises(ConfigurationError) as raised:
            check(read_configuration(str(folder), {"tokenizer": text}, {}))
        assert raised.value.message.startswith(says)
        assert "Known models" not in raised.value.message
