"""Fields of OpenAI's API, and of servers like it, that this server knows and cannot honour.

Each is refused by name, unless its value asks for nothing: null, or one of those listed here. A
field that only labels a request (`user`, `metadata`, ...) is accepted by the schema instead.
"""

from __future__ import annotations

from openllm.server.validation import Harmless

COMMON: Harmless = {
    "service_tier": ("auto", "default"),
    "chat_template": (),
    "chat_template_kwargs": ({},),
    "documents": ([],),
    "guided_choice": (),
    "guided_grammar": (),
    "guided_json": (),
    "guided_regex": (),
    "include_stop_str_in_output": (False,),
    "length_penalty": (1, 1.0),
    "min_tokens": (0,),
    "skip_special_tokens": (True,),
    "structured_outputs": (),
    "use_beam_search": (False,),
}

CHAT: Harmless = {
    **COMMON,
    "add_generation_prompt": (True,),
    "audio": (),
    "best_of": (1,),
    "continue_final_message": (False,),
    "echo": (False,),
    "function_call": ("none",),
    "functions": ([],),
    "modalities": (["text"],),
    "moderation": (),
    "parallel_tool_calls": (),
    "prediction": (),
    "prompt_cache_options": (),
    "prompt_cache_retention": ("in_memory",),
    "reasoning_effort": ("none",),
    "store": (False,),
    "suffix": ("",),
    "tool_choice": ("none",),
    "tools": ([],),
    "verbosity": ("medium",),
    "web_search_options": (),
}

COMPLETION: Harmless = {
    **COMMON,
    "best_of": (1,),
    "prompt_embeds": (),
    "suffix": ("",),
    "tool_choice": (),
    "tools": ([],),
}

EMBEDDING: Harmless = {"truncate_prompt_tokens": (), "input_type": ()}
