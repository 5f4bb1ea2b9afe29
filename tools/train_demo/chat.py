"""The chat format: special tokens, template and the text of a sample."""

from __future__ import annotations

from tools.train_demo.sample import Sample

END_OF_TEXT, IM_START, IM_END, PAD = "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>"
SPECIAL_TOKENS = (END_OF_TEXT, IM_START, IM_END, PAD)
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

# Loss weights in tenths: answers count fully, the rest a little so that text continues well.
ANSWER_WEIGHT, CONTEXT_WEIGHT, TEXT_WEIGHT = 10, 1, 5


def segments(sample: Sample) -> list[tuple[str, int]]:
    """Return the text of a sample in pieces with the loss weight (tenths) of each piece."""
    if not sample.turns:
        return [(sample.text + END_OF_TEXT, TEXT_WEIGHT)]
    parts: list[tuple[str, int]] = []
    if sample.system is not None:
        parts.append((f"{IM_START}system\n{sample.system}{IM_END}\n", CONTEXT_WEIGHT))
    for turn in sample.turns:
        parts.append(
            (f"{IM_START}user\n{turn.question}{IM_END}\n{IM_START}assistant\n", CONTEXT_WEIGHT)
        )
        parts.append((f"{turn.answer}{IM_END}", ANSWER_WEIGHT))
        parts.append(("\n", CONTEXT_WEIGHT))
    return parts


def prompt(questions: list[str], answers: list[str]) -> str:
    """Return the prompt for the answer to the last question, given the earlier answers."""
    text = ""
    for index, question in enumerate(questions):
        text += f"{IM_START}user\n{question}{IM_END}\n{IM_START}assistant\n"
        if index < len(answers):
            text += f"{answers[index]}{IM_END}\n"
    return text
