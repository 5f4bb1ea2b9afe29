"""What llama.cpp says against a request, in our terms: the field, the value and the limit."""

from __future__ import annotations

import logging
import re

from openllm.engines.json_schemas import schema_error
from openllm.engines.llamacpp_request import LoadedModel
from openllm.engines.llamacpp_stream import SCHEMA_DROPPED, NativeError
from openllm.engines.request_checks import input_too_long, too_long
from openllm.errors import EngineError, InvalidRequestError, OpenLLMError

logger = logging.getLogger("openllm.engines.llamacpp")

NO_TOKENS = "the prompt has no tokens; give at least one"


def generation_error(error: NativeError | None, model: LoadedModel) -> OpenLLMError:
    """Translate the error of a generation; None stands for a prompt without tokens."""
    if error is None:
        return InvalidRequestError(NO_TOKENS, param="prompt")
    if error.type == "exceed_context_size_error":
        return too_long(error.n_prompt_tokens, model.name, error.n_ctx, error.n_ctx - 1)
    if "failed to parse grammar" in error.message:
        return InvalidRequestError(
            "grammar is no valid GBNF, has no rule `root`, or is left-recursive", param="grammar"
        )
    if error is SCHEMA_DROPPED:
        return InvalidRequestError(
            "the JSON schema could not be followed to the end of the text: it leaves too many "
            "ways open at one place; use fewer optional properties and alternatives",
            param="json_schema",
        )
    if "json_schema" in error.message:
        return schema_error("it is no valid schema")
    return _unexpected(error)


def embedding_error(error: NativeError, model: LoadedModel, longest: int) -> OpenLLMError:
    """Translate the error of an embedding."""
    found = re.search(r"input \((\d+) tokens\)", error.message)
    if found:
        return input_too_long(found[1], model.name, longest)
    if "cannot be empty" in error.message:
        return InvalidRequestError("an input has no tokens; give at least one", param="input")
    return _unexpected(error)


def _unexpected(error: NativeError) -> EngineError:
    """Every value was checked before, so this is no fault of the caller."""
    logger.error("llama.cpp refused a request: %s", error.message)
    return EngineError("the engine refused the request; its log says why")
