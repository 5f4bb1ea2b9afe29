"""transformers' own continuous batching, in a process of its own.

    python -m benchmarks.peers.transformers_batching FOLDER DEVICE BLOCKS

Prints "ready". Then, for each line of JSON on its standard input (`prompts`: token ids; `tokens`:
how many to make for each), prints `seconds` and `tokens` as one line of JSON.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from transformers import AutoModelForCausalLM, ContinuousBatchingConfig, GenerationConfig


def main(folder: str, device: str, blocks: int) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", attn_implementation="sdpa")
    model = model.to(device).eval()
    greedy = GenerationConfig(do_sample=False, eos_token_id=-1)
    settings = ContinuousBatchingConfig(num_blocks=blocks)
    with model.continuous_batching_context_manager(
        generation_config=greedy, continuous_batching_config=settings
    ) as manager:
        print("ready", flush=True)
        for line in sys.stdin:
            work = json.loads(line)
            begin = time.perf_counter()
            made = _generate(manager, work["prompts"], work["tokens"])
            seconds = time.perf_counter() - begin
            print(json.dumps({"seconds": seconds, "tokens": made}), flush=True)


def _generate(manager: Any, prompts: list[list[int]], tokens: int) -> int:
    left, made = len(manager.add_requests(prompts, max_new_tokens=tokens)), 0
    while left:
        output = manager.get_result(timeout=1)
        if output is None:
            if not manager.is_running():
                raise SystemExit("continuous batching ended")
        elif output.error is not None:
            raise SystemExit(f"continuous batching failed: {output.error}")
        elif output.is_finished():
            left, made = left - 1, made + len(output.generated_tokens)
    return made


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
