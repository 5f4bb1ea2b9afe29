"""transformers' own `generate` on one static batch, in a process of its own.

    python -m benchmarks.peers.transformers_generate FOLDER THREADS

Prints "ready". Then, for each line of JSON on its standard input (`prompts`: token ids, all of one
length; `tokens`: how many to make), prints `seconds` and `tokens` as one line of JSON.
"""

from __future__ import annotations

import json
import sys
import time

import torch
from transformers import AutoModelForCausalLM


def main(folder: str, threads: int) -> None:
    torch.set_num_threads(threads)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
    model.generation_config.eos_token_id = None
    print("ready", flush=True)
    for line in sys.stdin:
        work = json.loads(line)
        begin = time.perf_counter()
        made = _generate(model, work["prompts"], work["tokens"])
        seconds = time.perf_counter() - begin
        print(json.dumps({"seconds": seconds, "tokens": made}), flush=True)


def _generate(model: torch.nn.Module, prompts: list[list[int]], tokens: int) -> int:
    ids = torch.tensor(prompts)
    out = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=tokens,
        do_sample=False,
    )
    return int(out.numel() - ids.numel())


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
