"""Chat templates in the shapes of model families, their tokenizers, and conversations for them.

The control tokens are those of the families. The templates, in the folder beside this file, are
written for these tests, each with other means of Jinja.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import AddedToken, pre_tokenizers, processors

from openllm.llm.templates import TextRules, text_rules
from openllm.types import LocalModel, Message
from tests.torch.checkpoints import make_tokenizer

TEMPLATES = Path(__file__).parent / "chat_templates"


class Family(NamedTuple):
    """How one family writes a conversation.

    Attributes:
        controls: Its control tokens, BOS and EOS too.
        bos: BOS, "" if it has none.
        eos: EOS, "" if it has none.
        words: Its tokens stand for "bytes"; or for "pieces" of text, before each of which, or
            before the "first" alone, or before "none" a blank is put.
        adds_bos: The tokenizer puts BOS before a text by itself.
        system: The template shows a system message.
        parts: It shows a message only if its content is a list of parts.
    """

    controls: str = ""
    bos: str = ""
    eos: str = ""
    words: str = "bytes"
    adds_bos: bool = False
    system: bool = True
    parts: bool = False


_CHATML = Family("<|im_start|> <|im_end|>", eos="<|im_end|>")
_LLAMA_3 = Family(
    "<|begin_of_text|> <|eot_id|> <|start_header_id|> <|end_header_id|>",
    "<|begin_of_text|>",
    "<|eot_id|>",
    adds_bos=True,
)
_SENTENCEPIECE = Family("<s> </s>", "<s>", "</s>", "pieces", adds_bos=True)
_GEMMA = Family(
    "<bos> <eos> <start_of_turn> <end_of_turn>", "<bos>", "<eos>", "none", adds_bos=True
)
_DEEPSEEK = Family(
    "<｜begin▁of▁sentence｜> <｜end▁of▁sentence｜>",
    "<｜begin▁of▁sentence｜>",
    "<｜end▁of▁sentence｜>",
    adds_bos=True,
)
FAMILIES = {
    "chatglm": Family("[gMASK] <sop> <|user|> <|assistant|> <|system|>"),
    "chatml": _CHATML,
    "commandr": Family(
        "<BOS_TOKEN> <|START_OF_TURN_TOKEN|> <|END_OF_TURN_TOKEN|> <|USER_TOKEN|>"
        " <|CHATBOT_TOKEN|> <|SYSTEM_TOKEN|>",
        "<BOS_TOKEN>",
        "<|END_OF_TURN_TOKEN|>",
        adds_bos=True,
    ),
    "deepseek2": _DEEPSEEK,
    "deepseek3": _DEEPSEEK._replace(
        controls=f"{_DEEPSEEK.controls} <｜User｜> <｜Assistant｜> <｜tool▁output▁begin｜>"
    ),
    "falcon": Family("<|endoftext|>", eos="<|endoftext|>"),
    "gemma": _GEMMA._replace(system=False),
    "gemma3": _GEMMA,
    "gptoss": Family(
        "<|start|> <|message|> <|end|> <|channel|> <|return|>", "<|start|>", "<|return|>"
    ),
    "granite": Family(
        "<|start_of_role|> <|end_of_role|> <|end_of_text|>", "<|end_of_text|>", "<|end_of_text|>"
    ),
    "hermes": _CHATML._replace(bos="<|begin_of_text|>", adds_bos=True)._replace(
        controls=f"{_CHATML.controls} <|begin_of_text|>"
    ),
    "idefics": _SENTENCEPIECE._replace(
        controls="<s> </s> <image> <end_of_utterance>", words="first", parts=True
    ),
    "llama2": _SENTENCEPIECE,
    "llama3": _LLAMA_3,
    "llama31": _LLAMA_3,
    "llama4": _LLAMA_3._replace(
        controls="<|begin_of_text|> <|header_start|> <|header_end|> <|eot|> <|image|>",
        eos="<|eot|>",
    ),
    "minimax": Family("]~b] [e~[ ]~!b[", "]~!b[", "[e~["),
    "mistral1": _SENTENCEPIECE._replace(words="first", system=False),
    "mistral3": _SENTENCEPIECE._replace(
        controls="<s> </s> [INST] [/INST] [TOOL_RESULTS]", words="first"
    ),
    "nemotron": Family("<SPECIAL_10> <SPECIAL_11> <SPECIAL_12> <s>", "<s>", "<SPECIAL_12>"),
    "olmo": Family("<|endoftext|>", "<|endoftext|>", "<|endoftext|>"),
    "phi3": _SENTENCEPIECE._replace(
        controls="<s> <|endoftext|> <|system|> <|user|> <|assistant|> <|end|>",
        eos="<|endoftext|>",
        adds_bos=False,
    ),
    "phi4": Family("<|im_start|> <|im_end|> <|im_sep|>", "<|im_start|>", "<|im_end|>"),
    "qwen2": _CHATML,
    "qwen3": _CHATML,
    "smollm3": _CHATML._replace(words="none"),
    "stablelm": Family("<|endoftext|> <|user|> <|assistant|>", eos="<|endoftext|>"),
    "tekken": _SENTENCEPIECE._replace(
        controls="<s> </s> [INST] [/INST] [SYSTEM_PROMPT] [/SYSTEM_PROMPT]", words="bytes"
    ),
    "vicuna": _SENTENCEPIECE,
    "zephyr": _SENTENCEPIECE._replace(words="first"),
}


@cache
def source_of(name: str) -> str:
    return (TEMPLATES / f"{name}.jinja").read_text("utf-8")


def tokenizer_of(name: str) -> Any:
    """Build the tokenizer of a family, with its chat template."""
    family = FAMILIES[name]
    made = make_tokenizer("bytes" if family.words == "bytes" else "pieces")
    backend = made.backend_tokenizer
    if family.words in ("first", "none"):
        scheme = "first" if family.words == "first" else "never"
        backend.normalizer = None
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    made.add_tokens([AddedToken(each, special=True) for each in family.controls.split()])
    made.add_tokens([AddedToken("<think>"), AddedToken("</think>")])
    made.bos_token, made.eos_token = family.bos or None, family.eos or None
    before = [(family.bos, made.convert_tokens_to_ids(family.bos))] if family.adds_bos else []
    backend.post_processor = processors.TemplateProcessing(
        single=f"{family.bos} $A" if before else "$A", special_tokens=before
    )
    made.chat_template = source_of(name)
    return made


def rules_of(folder: Path) -> TextRules:
    """Read a folder that holds a tokenizer and no model, as `--tokenizer` names it."""
    words = LocalModel(name="words", path=str(folder), format="safetensors")
    return text_rules(LocalModel(name="m", path=str(folder), format="other", tokenizer=words))


def system(text: str = "Be brief.") -> Message:
    return Message("system", text)


def user(text: str = "Hello there", name: str | None = None) -> Message:
    return Message("user", text, name)


def assistant(text: str = "Hi! How can I help?") -> Message:
    return Message("assistant", text)


CONVERSATIONS = {
    "a question": [user()],
    "turns": [user(), assistant(), user("More?")],
    "system": [system(), user()],
    "system and turns": [system(), user(), assistant(), user("More?")],
    "system in the middle": [user(), system(), assistant(), user()],
    "system last": [user(), system()],
    "two systems": [system(), system("Be kind."), user()],
    "system alone": [system()],
    "developer": [Message("developer", "Be brief."), user()],
    "two users": [user(), user("again")],
    "two assistants": [user(), assistant(), assistant("More.")],
    "begun": [user(), assistant("The answer is")],
    "begun with a blank": [user(), assistant("The answer is ")],
    "assistant first": [assistant(), user()],
    "assistant alone": [assistant()],
    "an empty question": [user("")],
    "an empty answer": [user(), assistant(""), user()],
    "an empty system": [system(""), user()],
    "nothing but blanks": [user(" \n ")],
    "blanks around": [system(" a \n"), user("\n  b  \n\n"), assistant("  c \n"), user("\td ")],
    "names": [user("Hello", "Ada"), assistant(), user("So?", "Bob")],
    "other alphabets": [
        user("Grüße 日本 🙂 e\u0301 \u2581\u2028 \x00"),
        assistant("\r\nשלום"),
        user(),
    ],
    "Jinja and markup": [user("{{ 1 }} {% x %} \\n <b>&amp;</b> '\""), assistant("%s {}"), user()],
    "thoughts": [user(), assistant("<think>\nhm\n</think>\n\nFour."), user("And?")],
    "a thought alone": [user(), assistant("<think>\nhm\n</think>\n\nFour.")],
    "an open thought": [user(), assistant("<think>\nhm")],
    "marks": [system("Quick. /no_think"), user("x /think"), assistant(), user("y<tool_response>")],
    "tool": [user(), Message("tool", "42"), Message("tool", "43"), user()],
    "unknown role": [user(), Message("critic", "Bad.")],
}
