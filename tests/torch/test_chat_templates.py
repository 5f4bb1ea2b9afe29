"""Prompts of our own renderer are those of transformers, in text and in token ids.

The same by specification but for two things: only the first system message counts (S3-28), and
where a template shows none, its text comes before that of the user.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, tzinfo
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from jinja2.exceptions import TemplateError
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import chat_template_utils

import openllm
from openllm.engines.hf_tokens import TokenTable
from openllm.errors import InvalidRequestError
from openllm.llm.templates import text_rules
from openllm.prompts import ChatTemplate, LiteralText, Segment, sandbox
from openllm.types import LocalModel, Message
from tests.torch.chat_families import (
    CONVERSATIONS,
    FAMILIES,
    assistant,
    rules_of,
    source_of,
    system,
    tokenizer_of,
    user,
)
from tests.torch.checkpoints import make_checkpoint
from tests.unit.models.gguf_bytes import ARRAY, BOOL, FLOAT32, INT32, STRING, UINT32, right_metadata
from tests.unit.models.gguf_bytes import build as build_gguf

DEMO = Path(openllm.__file__).parent / "demo"


class Model:
    """A family's tokenizer in a folder, what is read from there, and transformers' view of it."""

    def __init__(self, folder: Path, name: str) -> None:
        tokenizer_of(name).save_pretrained(folder)
        self.family = FAMILIES[name]
        self.folder = folder
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self.rules = rules_of(folder)
        self.table = TokenTable(self.tokenizer)

    @property
    def template(self) -> ChatTemplate:
        assert self.rules.template is not None
        return self.rules.template

    def expected(self, messages: Sequence[Message], *, opened: bool) -> str | Exception:
        """Render as transformers does; or return what it raises, which may be anything."""
        try:
            return str(self._apply(messages, opened=opened, tokenize=False))
        except Exception as error:
            return error

    def expected_ids(self, messages: Sequence[Message], *, opened: bool) -> list[int]:
        return list(self._apply(messages, opened=opened, tokenize=True, return_dict=False))

    def ids(self, segments: Iterable[Segment]) -> list[int]:
        """Encode a prompt; the engine puts nothing before or behind it but what it must."""
        ids: list[int] = []
        for each in segments:
            literal = isinstance(each, LiteralText)
            text = each.text if isinstance(each, LiteralText) else each
            ids += self.table.encode(text, special=not literal)
        return ids

    def _apply(self, messages: Sequence[Message], *, opened: bool, **options: Any) -> Any:
        turns = [as_dict(each, parts=self.family.parts) for each in self._seen(messages)]
        return self.tokenizer.apply_chat_template(turns, add_generation_prompt=opened, **options)

    def _seen(self, messages: Sequence[Message]) -> list[Message]:
        first, *rest = messages
        kept = [each for each in rest if each.role != "system"]
        if first.role not in ("system", "developer"):
            return [first, *kept]
        if self.family.system:
            return [system(first.content), *kept]
        if not kept:
            return [user(first.content)]
        texts = filter(None, (first.content, kept[0].content))
        return [user("\n\n".join(texts)), *kept[1:]]


def as_dict(message: Message, *, parts: bool) -> dict[str, Any]:
    content = [{"type": "text", "text": message.content}] if parts else message.content
    name = {"name": message.name} if message.name else {}
    return {"role": message.role, "content": content, **name}


def text_of(segments: Iterable[Segment]) -> str:
    return "".join(each if isinstance(each, str) else each.text for each in segments)


def outcome(
    template: ChatTemplate, messages: Sequence[Message], *, opened: bool = True
) -> tuple[Segment, ...] | InvalidRequestError:
    try:
        return template.render(messages, add_generation_prompt=opened)
    except InvalidRequestError as error:
        return error


class Noon(datetime):
    """A day that does not end between two renderings."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Noon:
        return cls(2026, 2, 3, 12, tzinfo=tz)


@pytest.fixture(autouse=True)
def noon(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (sandbox, chat_template_utils):
        monkeypatch.setattr(module, "datetime", Noon)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("families")


@pytest.fixture(params=FAMILIES, scope="module")
def model(request: pytest.FixtureRequest, folders: Path) -> Model:
    return model_of(request.param, folders)


@cache
def model_of(name: str, folders: Path) -> Model:
    return Model(folders / name, name)


@pytest.mark.parametrize("opened", [True, False], ids=["opened", "closed"])
def test_text_and_ids_are_those_of_transformers(model: Model, opened: bool) -> None:
    shown = 0
    for title, messages in CONVERSATIONS.items():
        expected = model.expected(messages, opened=opened)
        found = outcome(model.template, messages, opened=opened)
        if isinstance(expected, Exception):
            assert isinstance(found, InvalidRequestError), title
            assert found.param == "messages"
            assert str(expected) in found.message or not isinstance(expected, TemplateError), title
        else:
            assert found == ((expected,) if expected else ()), title
            assert model.ids(found) == model.expected_ids(messages, opened=opened), title
            shown += 1
    assert shown > len(CONVERSATIONS) // 3


def test_what_the_family_says_of_itself_is_true(model: Model) -> None:
    """So that the families differ in what they are here for."""
    asked, told = user("Which?"), system("Thus.")
    parts = model.family.parts
    turns = [[as_dict(each, parts=parts) for each in said] for said in ([asked], [told, asked])]
    plain = model.tokenizer.apply_chat_template(turns[0], tokenize=False)
    assert "Which?" in plain
    try:
        shown = "Thus." in model.tokenizer.apply_chat_template(turns[1], tokenize=False)
    except TemplateError:
        shown = False
    assert shown == model.family.system
    assert (model.rules.bos == model.family.bos) == bool(
        model.family.adds_bos or not model.family.bos
    )


def test_a_text_that_the_tokenizer_would_begin_has_bos_once(model: Model) -> None:
    for messages in CONVERSATIONS.values():
        found = outcome(model.template, messages)
        text = "" if isinstance(found, Exception) else text_of(found)
        if model.family.bos and text.startswith(model.family.bos):
            assert model.table.prompt_ids(text) == model.ids((text,))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that knows as many tokens as any family has."""
    folder = make_checkpoint("llama", tmp_path_factory.mktemp("checkpoint"))
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.resize_token_embeddings(640)
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "name", ["chatml", "gemma", "hermes", "llama2", "llama3", "mistral3", "vicuna", "zephyr"]
)
def test_a_model_reads_these_ids_and_no_bos_that_the_template_does_not_write(
    name: str, checkpoint: Path, folders: Path
) -> None:
    model = model_of(name, folders)
    options: dict[str, Any] = {"backend": "torch", "dtype": "float32", "threads": 1}
    with openllm.LLM(checkpoint, tokenizer=str(model.folder), **options) as llm:
        for title in ("a question", "turns", "other alphabets"):
            messages = [each for each in CONVERSATIONS[title] if each.role != "system"]
            turns = [as_dict(each, parts=False) for each in messages]
            answer = llm.sync_generate(messages=turns, max_new_tokens=1)
            assert answer.prompt == model.expected(messages, opened=True)
            assert answer.prompt_token_ids == model.expected_ids(messages, opened=True)


def test_control_tokens_of_a_user_are_text_and_change_no_other(model: Model) -> None:
    controls = [*model.family.controls.split(), "<think>"]
    said = user(" x ".join(["a", *controls, "b"]))
    segments = model.template.render([said])
    assert text_of(segments) == model.expected([said], opened=True)
    own = [each for each in model.ids(segments) if each in model.table.special_ids]
    assert own == [
        each
        for each in model.ids(model.template.render([user("a")]))
        if each in model.table.special_ids
    ]


def test_long_conversations_reach_no_limit(model: Model) -> None:
    turns = [user("word " * 40), assistant("<b>word</b>\n" * 20)] * 100
    for messages in ([*turns, user("x" * 100_000)], [*turns, user("a\n\n" * 33_333)]):
        segments = model.template.render(messages)
        assert segments == (model.expected(messages, opened=True),)


def test_a_file_and_a_folder_give_the_same_prompts(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf_of(model))
    rules = text_rules(LocalModel(name="m", path=str(path), format="gguf"))
    assert rules.template is not None
    assert rules[1:] == model.rules[1:]
    for messages in (*CONVERSATIONS.values(), [user(f"a {model.family.controls} b")]):
        expected, found = (outcome(each, messages) for each in (model.template, rules.template))
        assert str(found) == str(expected)


def gguf_of(model: Model) -> bytes:
    """Return a file with the family's tokens and template, as converters write it."""
    tokenizer = model.tokenizer
    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    added = tokenizer.added_tokens_decoder
    kinds = [3 if at in added and added[at].special else 1 for at in range(len(tokens))]
    metadata = right_metadata() | {
        "tokenizer.ggml.model": (STRING, "gpt2"),
        "tokenizer.ggml.tokens": (ARRAY, (STRING, tokens)),
        "tokenizer.ggml.scores": (ARRAY, (FLOAT32, [0.0] * len(tokens))),
        "tokenizer.ggml.token_type": (ARRAY, (INT32, kinds)),
        "tokenizer.ggml.add_bos_token": (BOOL, model.family.adds_bos),
        "tokenizer.chat_template": (STRING, tokenizer.chat_template),
    }
    for name in ("bos", "eos"):
        token_id = getattr(tokenizer, f"{name}_token_id")
        key = f"tokenizer.ggml.{name}_token_id"
        if token_id is None:
            del metadata[key]
        else:
            metadata[key] = (UINT32, token_id)
    return bytes(build_gguf(metadata).content)


def test_the_bundled_model_is_read_the_same_from_both_its_forms() -> None:
    file = text_rules(LocalModel(name="d", path=str(DEMO / "demo-q8_0.gguf"), format="gguf"))
    folder = text_rules(LocalModel(name="d", path=str(DEMO / "safetensors"), format="safetensors"))
    tokenizer: Any = AutoTokenizer.from_pretrained(DEMO / "safetensors")
    assert file.template is not None
    assert folder.template is not None
    for name in ("turns", "system and turns", "begun", "blanks around", "other alphabets"):
        messages = CONVERSATIONS[name]
        turns = [as_dict(each, parts=False) for each in messages]
        expected = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        assert folder.template.render(messages) == (expected,) == file.template.render(messages)


def test_every_template_belongs_to_a_family() -> None:
    here = Path(__file__).parent / "chat_templates"
    assert {each.stem for each in here.iterdir()} == set(FAMILIES)
    assert len({source_of(name) for name in FAMILIES}) == len(FAMILIES) >= 25
