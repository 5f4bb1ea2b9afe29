"""Which commas separate models, and which are a URL's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from openllm.bento.options import read_configuration
from openllm.config.model_list import SEPARATOR, split_models
from openllm.errors import ConfigurationError

URL = "https://host/a,b.gguf"


@pytest.mark.parametrize(
    ("text", "models"),
    [
        ("demo", ["demo"]),
        ("a,b , c", ["a", "b", "c"]),
        ("./a.gguf,b=./b.gguf", ["./a.gguf", "b=./b.gguf"]),
        ("a,,b", ["a", "", "b"]),
        ("a,", ["a", ""]),
        (URL, [URL]),
        ("https://host/a,b,c/d,e.GGUF", ["https://host/a,b,c/d,e.GGUF"]),
        ("a,https://host/b.gguf", ["a", "https://host/b.gguf"]),
        ("https://h/x.gguf,llama", ["https://h/x.gguf", "llama"]),
        (f"{URL},n={URL},demo", [URL, f"n={URL}", "demo"]),
        (f"demo, {URL}, {URL}", ["demo", URL, URL]),
        ("https://host/a%2Cb.gguf,c", ["https://host/a%2Cb.gguf", "c"]),
        ("https://h/x.gguf?k=v, demo", ["https://h/x.gguf?k=v", "demo"]),
        ("demo,https://h/x.gguf?k=v", ["demo", "https://h/x.gguf?k=v"]),
        ("https://h/x.gguf?k=a%2Cb", ["https://h/x.gguf?k=a%2Cb"]),
        ("https://host/a, b.gguf", ["https://host/a", "b.gguf"]),
        ("ftp://host/a,b", ["ftp://host/a", "b"]),
    ],
)
def test_a_comma_of_a_url_is_its_own_until_its_file_ends(text: str, models: list[str]) -> None:
    assert split_models(text) == models


def test_models_that_were_given_apart_stay_apart() -> None:
    apart = ["https://h/x.gguf?k=SECRET", URL, "demo", "https://h/y.gguf"]
    assert split_models(SEPARATOR.join(apart)) == apart


@pytest.mark.parametrize("text", ["https://h/x.gguf?k=SECRET,demo", "a,n=https://h/x.gguf?k=a,b"])
def test_a_comma_that_may_be_either_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"'x\.gguf' has a comma .* write %2C") as raised:
        split_models(text)
    assert "SECRET" not in raised.value.message


def test_a_url_whose_file_does_not_end_is_told_with_the_rule() -> None:
    with pytest.raises(ConfigurationError, match="a comma separates models only behind that"):
        read_configuration("https://host/model,demo", {}, {})


def test_every_place_that_takes_a_list_goes_by_it(tmp_path: Path) -> None:
    def names(models: str | None, environ: dict[str, str], file: str = "") -> list[str]:
        path = tmp_path / "file.yaml"
        path.write_text(file)
        found = read_configuration(models, {}, environ, file=str(path) if file else None)
        return [entry.text for entry in found.entries]

    url = f"n={URL}"
    assert names(f"{url},demo", {}) == [url, "demo"]
    assert names(None, {"OPEN_LLM_MODELS": f"demo,{url}"}) == ["demo", url]
    assert names(None, {}, f"models: demo,{url}") == ["demo", url]
    assert names(None, {}, f"models: ['{url}', demo]") == [url, "demo"]
    with pytest.raises(ConfigurationError, match=r"line 1.*has a comma behind its '\?'"):
        names(None, {}, "models: 'https://h/x.gguf?a,demo'")
    with pytest.raises(ConfigurationError, match=r"OPEN_LLM_MODELS.*has a comma behind its '\?'"):
        names(None, {"OPEN_LLM_MODELS": "https://h/x.gguf?a,demo"})


def test_a_password_before_a_host_without_a_path_is_not_shown() -> None:
    with pytest.raises(ConfigurationError, match=r"'host' has a comma") as raised:
        split_models("https://user:SECRET@host?k=a,b")
    assert "SECRET" not in raised.value.message
