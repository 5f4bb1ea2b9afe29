"""What a model's files say of its texts: the chat template, where text begins, how it ends."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from openllm.prompts import ChatTemplate
from openllm.types import LocalModel, ModelFormat

if TYPE_CHECKING:
    from openllm.models.folder import ModelFolder
    from openllm.models.folder_tokens import FolderTokens
    from openllm.models.gguf import GgufHeader

TEMPLATE = "chat_template.jinja"
MAX_TEMPLATE_BYTES = 1024 * 1024


class TextRules(NamedTuple):
    """How text becomes a prompt, and what a text ends with.

    Attributes:
        template: The chat template; None where the model has none. The BOS that it writes, no
            engine doubles.
        bos: Text of the token that the tokenizer puts first by itself, "" if it puts none.
        eos: Text of the token that ends a text, "" if it is not known.
        closed: An encoder reads the prompt, so it ends as a text does.
    """

    template: ChatTemplate | None
    bos: str = ""
    eos: str = ""
    closed: bool = False


def text_rules(model: LocalModel) -> TextRules:
    """Read the rules from the model's own files, or those of the tokenizer that it is given.

    Raises:
        ModelFileError: The files are damaged, or the chat template does not compile.
    """
    if model.tokenizer is None:
        return _READERS[model.format](model.path)
    return _of_given(model, model.tokenizer.path)


def _of_script(path: str) -> TextRules:
    from openllm.engines.scripted_rules import read_script
    from openllm.engines.scripted_tokens import CONTROL_TOKENS, IM_END

    source = read_script(path).chat_template
    template = ChatTemplate(source, control_tokens=CONTROL_TOKENS) if source else None
    return TextRules(template, eos=IM_END)


def _of_gguf(path: str) -> TextRules:
    from openllm.models.gguf import read_header

    return _of_tokens(read_header(path))


def _of_folder(path: str) -> TextRules:
    from openllm.models.folder import read_folder

    # What is wrong with code or weights, the choice of the engine has refused.
    folder = read_folder(path, trust_remote_code=True, weights=False)
    return _of_tokens(folder)._replace(closed=folder.encoder_decoder)


def _of_given(model: LocalModel, tokenizer: str) -> TextRules:
    from openllm.models.folder import read_folder, read_tokenizer

    rules = _of_tokens(read_tokenizer(tokenizer, trust_remote_code=True))
    if model.format != "safetensors":
        return rules
    folder = read_folder(model.path, trust_remote_code=True, weights=False)
    return rules._replace(closed=folder.encoder_decoder)


def _of_other(path: str) -> TextRules:
    """Read the chat template that may lie in the folder, or beside the file."""
    from openllm.models.folder_files import FolderFiles

    folder = path if os.path.isdir(path) else os.path.dirname(path)
    source = FolderFiles(folder).text(TEMPLATE, MAX_TEMPLATE_BYTES)
    return TextRules(ChatTemplate(source) if source else None)


def _of_tokens(read: FolderTokens | ModelFolder | GgufHeader) -> TextRules:
    template = None
    if read.chat_template:
        template = ChatTemplate(
            read.chat_template,
            control_tokens=read.control_tokens,
            bos_token=read.bos_token,
            eos_token=read.eos_token,
        )
    return TextRules(template, read.bos_token if read.add_bos else "", read.eos_token)


_READERS: dict[ModelFormat, Callable[[str], TextRules]] = {
    "gguf": _of_gguf,
    "safetensors": _of_folder,
    "script": _of_script,
    "other": _of_other,
}
