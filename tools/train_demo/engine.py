"""Greedy answers of an exported model, by llama.cpp or by transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

from tools.train_demo.chat import IM_END


class Engine(Protocol):
    """Something that answers at temperature 0 unless told otherwise."""

    def chat(self, messages: list[dict[str, str]], temperature: float = 0.0) -> str:
        """Return the assistant's answer to a list of role/content messages."""
        ...

    def complete(self, prompt: str, tokens: int = 32) -> str:
        """Return up to ``tokens`` tokens that continue a plain text."""
        ...


class LlamaCpp:
    """Runs a GGUF file through xllamacpp."""

    def __init__(self, path: Path, threads: int = 1) -> None:
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.n_ctx = 1024
        params.n_parallel = 1
        params.cpuparams.n_threads = threads
        params.cpuparams_batch.n_threads = threads
        params.n_gpu_layers = 0
        params.verbosity = 0
        self._server = xllamacpp.Server(params)

    def chat(self, messages: list[dict[str, str]], temperature: float = 0.0) -> str:
        """Return the assistant's answer."""
        body = {"messages": messages, "temperature": temperature, "max_tokens": 200, "seed": 7}
        found = self._call(self._server.handle_chat_completions, body)
        return str(found["choices"][0]["message"]["content"])

    def complete(self, prompt: str, tokens: int = 32) -> str:
        """Return the continuation of a prompt."""
        body = {"prompt": prompt, "temperature": 0.0, "max_tokens": tokens}
        found = self._call(self._server.handle_completions, body)
        return str(found["choices"][0]["text"])

    @staticmethod
    def _call(handler: Any, body: dict[str, Any]) -> Any:
        found = handler(body)
        if isinstance(found, str | bytes):
            found = json.loads(found)
        if "choices" not in found:
            raise RuntimeError(f"llama.cpp answered without choices: {found}")
        return found


class Transformers:
    """Runs the safetensors folder through transformers, in float32 on the CPU."""

    def __init__(self, folder: Path) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self._model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)

    def chat(self, messages: list[dict[str, str]], temperature: float = 0.0) -> str:
        """Return the assistant's answer (greedy; the temperature must be 0)."""
        if temperature:
            raise ValueError("only greedy answers are supported here")
        text = self._tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
        return self.complete(text, 200)

    def complete(self, prompt: str, tokens: int = 32) -> str:
        """Return the continuation of a prompt."""
        inputs = self._tokenizer(prompt, return_tensors="pt")
        found = self._model.generate(
            inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            do_sample=False,
            max_new_tokens=tokens,
        )
        new = found[0][inputs["input_ids"].shape[1] :]
        text = str(self._tokenizer.decode(new, skip_special_tokens=False))
        return text.split(IM_END)[0].split("<|endoftext|>")[0]
