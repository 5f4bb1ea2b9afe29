"""Everything that can go wrong, by meaning. Mapping to a protocol happens at the protocol's edge.

OpenLLMError
 +- InvalidRequestError (ValueError)     the caller's request cannot be honoured as written
 |   +- ContextLengthError               prompt longer than the model's context
 |   +- UnsupportedError                 a field this engine or model cannot honour
 +- ModelNotFoundError (LookupError)     no such model is served or known
 +- ModelFetchError                      a model cannot be downloaded, now or with this token
 +- ConfigurationError (ValueError)      a setting is wrong; nothing was started
 |   +- ModelFileError                   a model file is missing, truncated or not what it says
 |   +- AddressInUseError                the address to listen on is taken
 +- OverloadedError                      the queue is full; try again later
 +- DeadlineError                        a time limit of the server ran out
 +- EngineError                          the engine failed
     +- EngineNotInstalledError          its package is missing; says what to install
     +- EngineStartError                 the model could not be loaded
     |   +- OutOfMemoryError             it needs more memory than is free
     +- EngineCrashedError               the runner process died during the request
     +- EngineUnavailableError           the model is loading, restarting or has failed
"""

from __future__ import annotations


class OpenLLMError(Exception):
    """Base of every error raised on purpose.

    Attributes:
        message: One sentence that names the value and the fix.
        param: Name of the offending field or option, if one is to blame.
        code: Machine-readable name, stable across releases.
        retry_after: Seconds after which trying again makes sense, if it does.
    """

    code: str | None = None

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after = retry_after
        if code is not None:
            self.code = code


class InvalidRequestError(OpenLLMError, ValueError):
    code = "invalid_value"


class ContextLengthError(InvalidRequestError):
    code = "context_length_exceeded"


class UnsupportedError(InvalidRequestError):
    code = "unsupported_parameter"


class ModelNotFoundError(OpenLLMError, LookupError):
    code = "model_not_found"


class ModelFetchError(OpenLLMError):
    code = "model_fetch_failed"


class ConfigurationError(OpenLLMError, ValueError):
    code = "invalid_configuration"


class ModelFileError(ConfigurationError):
    code = "invalid_model_file"


class AddressInUseError(ConfigurationError):
    code = "address_in_use"


class OverloadedError(OpenLLMError):
    code = "overloaded"


class DeadlineError(OpenLLMError):
    code = "timeout"


class EngineError(OpenLLMError):
    code = "engine_error"


class EngineNotInstalledError(EngineError):
    code = "engine_not_installed"


class EngineStartError(EngineError):
    code = "engine_start_failed"


class OutOfMemoryError(EngineStartError):
    code = "out_of_memory"


class EngineCrashedError(EngineError):
    code = "engine_crashed"


class EngineUnavailableError(EngineError):
    code = "model_unavailable"


def by_name(name: str) -> type[OpenLLMError]:
    """Return the class of this tree called `name`; `EngineError` for a name it does not hold."""
    found = globals().get(name)
    if isinstance(found, type) and issubclass(found, OpenLLMError):
        return found
    return EngineError
