"""`python -m openllm.cli` is `openllm`."""

from openllm.cli import main

main(prog_name="openllm")
