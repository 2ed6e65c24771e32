"""Whether somebody who can be Ray is at an address is known in seconds, and one line says why not."""

import contextlib
import socket
import threading

import pytest

from smd_evo.errors import InvalidValue
from smd_evo.experiments.generations.run import Evolution
from smd_evo.experiments.generations.settings import EvolutionConfig
from smd_evo.integrations import ray_address
from smd_evo.integrations.ray_address import answer, check_address

SETTINGS = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])


@contextlib.contextmanager
def server(reply):
    """Somebody who says this to everybody who has said something; None: nothing at all."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    if reply is None:
                        held.append(connection)
                        continue
                    with connection:
                        connection.recv(100)
                        connection.sendall(reply)

        held = []
        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        for connection in held:
            connection.close()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.delenv("RAY_USE_TLS", raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def refused(address, reason):
    with pytest.raises(
        InvalidValue, match=r"^ray-address: expected host:port of a Ray cluster that runs, got "
    ) as caught:
        check_address(address)
    assert f"({reason}" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("prefix", ["", "ray://"])
class TestAddresses:
    def test_of_a_grpc_server(self, prefix):
        with server(SETTINGS) as address:
            check_address(prefix + address)

    @pytest.mark.parametrize(
        "reply", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-OpenSSH\r\n", SETTINGS[:2]]
    )
    def test_of_somebody_else(self, prefix, reply):
        with server(reply) as address:
            refused(prefix + address, "something else than Ray listens there")

    def test_of_somebody_silent(self, prefix, monkeypatch):
        monkeypatch.setattr(ray_address.answer, "__defaults__", (0.1,))
        with server(None) as address:
            refused(prefix + address, "nobody answers there for 0.1 s")

    def test_of_nobody(self, prefix):
        with socket.socket() as unused:  # bound, so that nobody else listens there, and not listening
            unused.bind(("127.0.0.1", 0))
            refused(f"{prefix}127.0.0.1:{unused.getsockname()[1]}", "nobody listens there")

    @pytest.mark.parametrize("address", ["127.0.0.1", ":6379", "127.0.0.1:", "127.0.0.1:port", "localhost"])
    def test_without_a_host_or_a_port(self, prefix, address):
        refused(prefix + address, "no port")

    def test_of_an_impossible_port(self, prefix):
        refused(f"{prefix}127.0.0.1:99999", "")


@pytest.mark.parametrize("address", [None, "", "local", "auto"])
def test_where_there_is_nothing_to_check(address):
    check_address(address)


def test_behind_tls_a_connection_has_to_do(monkeypatch):
    monkeypatch.setenv("RAY_USE_TLS", "1")
    with server(None) as address:
        check_address(address)
        assert answer(address) is None


def test_an_evolution_asks_before_it_does_anything_else(monkeypatch):
    monkeypatch.setattr("smd_evo.experiments.parent.load_parent", lambda *_: pytest.fail("it loads first"))
    settings = {"generations": "2", "actors": "2"}
    with pytest.raises(InvalidValue, match="nobody listens there"):
        Evolution(EvolutionConfig.read(settings | {"ray_address": "127.0.0.1:1"}))
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(InvalidValue, match="nobody listens there"):
        Evolution(EvolutionConfig.read(settings))
