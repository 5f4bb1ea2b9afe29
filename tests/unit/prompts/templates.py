"""Chat templates in the shapes that model families use, written for these tests."""

from __future__ import annotations

from openllm.prompts import ChatTemplate, Segment

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

LLAMA2 = """
{%- if messages[0]['role'] == 'system' %}
    {%- set system = '<<SYS>>\\n' + messages[0]['content'].strip() + '\\n<</SYS>>\\n\\n' %}
    {%- set turns = messages[1:] %}
{%- else %}
    {%- set system = '' %}
    {%- set turns = messages %}
{%- endif %}
{%- for message in turns %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Roles must alternate user/assistant/user/assistant') }}
    {%- endif %}
    {%- set content = system + message['content'] if loop.first else message['content'] %}
    {%- if message['role'] == 'user' %}
        {{- bos_token + '[INST] ' + content.strip() + ' [/INST]' }}
    {%- else %}
        {{- ' ' + content.strip() + ' ' + eos_token }}
    {%- endif %}
{%- endfor %}"""

LLAMA3 = """
{{- bos_token }}
{%- for message in messages %}
    {{- '<|start_header_id|>' ~ message.role ~ '<|end_header_id|>\\n\\n' }}
    {{- message.content | trim }}<|eot_id|>
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}"""

GEMMA = """
{{- bos_token }}
{%- if messages[0]['role'] == 'system' %}
    {{- raise_exception('System role not supported') }}
{%- endif %}
{%- for message in messages %}
    {%- set role = 'model' if message.role == 'assistant' else message.role %}
    {{- '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"""

MISTRAL = """
{%- set ns = namespace(user=true) %}
{{- bos_token }}
{%- for message in messages %}
    {%- if (message.role == 'user') != ns.user %}
        {{- raise_exception('After the optional system message, roles must alternate') }}
    {%- endif %}
    {%- set ns.user = not ns.user %}
    {%- if message.role == 'user' %}
        {{- '[INST] ' + message.content + '[/INST]' }}
    {%- elif message.role == 'assistant' %}
        {{- ' ' + message.content + eos_token }}
    {%- endif %}
{%- endfor %}"""

PHI = """
{% for message in messages %}
    {% if message['role'] == 'system' %}
<|system|>
{{ message['content'] }}<|end|>
    {% elif message['role'] == 'user' %}
<|user|>
{{ message['content'] }}<|end|>
    {% else %}
<|assistant|>
{% generation %}{{ message['content'] }}<|end|>{% endgeneration %}

    {% endif %}
{% endfor %}
{% if add_generation_prompt %}<|assistant|>
{% endif %}"""

# Shows only contents that are lists of parts, as templates of vision models do.
PARTS = """
{%- for message in messages %}
    {{- '<|' + message.role + '|>' }}
    {%- for part in message.content | selectattr('type', 'equalto', 'text') %}
        {{- part.text }}
    {%- endfor %}
{%- endfor %}"""

# Leaves an assistant's reasoning out, as templates of reasoning models do.
REASONING = """
{%- for message in messages %}
    {%- set content = message.content %}
    {%- if message.role == 'assistant' and '</think>' in content %}
        {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
    {%- endif %}
    {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>\\n' }}
{%- endfor %}"""

CONTROL_TOKENS = {
    CHATML: ("<|im_start|>", "<|im_end|>"),
    LLAMA2: ("<s>", "</s>"),
    LLAMA3: ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    GEMMA: ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"),
    MISTRAL: ("<s>", "</s>", "[INST]", "[/INST]"),
    PHI: ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
    PARTS: ("<|user|>", "<|assistant|>", "<|system|>"),
    REASONING: ("<|im_start|>", "<|im_end|>", "<think>", "</think>"),
}
ENDS = {LLAMA2: ("<s>", "</s>"), MISTRAL: ("<s>", "</s>"), GEMMA: ("<bos>", "<eos>")}
ENDS[LLAMA3] = ("<|begin_of_text|>", "<|eot_id|>")


def chat_template(source: str) -> ChatTemplate:
    """Build the template with the control tokens of its family."""
    bos, eos = ENDS.get(source, ("", ""))
    return ChatTemplate(
        source,
        control_tokens=CONTROL_TOKENS[source],
        bos_token=bos,
        eos_token=eos,
    )


def joined(segments: tuple[Segment, ...]) -> str:
    return "".join(each if isinstance(each, str) else each.text for each in segments)
