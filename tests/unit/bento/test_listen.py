from __future__ import annotations

import socket

import pytest

from openllm.bento.listen import listen
from openllm.errors import AddressInUseError, ConfigurationError


def test_port_0_takes_a_free_one() -> None:
    with listen("127.0.0.1", 0, 8) as sock:
        assert sock.getsockname()[1] > 0


# Addresses of documentation (RFC 5737) belong to no machine.
@pytest.mark.parametrize("host", ["192.0.2.1", "a" * 64 + ".example"])
def test_an_address_of_another_machine_names_the_flag(host: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^--host '{host}' is not an address of this"):
        listen(host, 0, 8)


def test_a_taken_port_names_its_holder() -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        with pytest.raises(AddressInUseError, match=f"port {port} .* in use by process .*--port"):
            listen("127.0.0.1", port, 8)
