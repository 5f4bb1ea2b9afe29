"""Messages -> prompt by the model's own chat template, in which a user's text stays text.

This room knows neither where a template comes from nor how text becomes token ids.
"""

from openllm.prompts.literals import LiteralText, Segment
from openllm.prompts.template import ChatTemplate

__all__ = ["ChatTemplate", "LiteralText", "Segment"]
