"""Addresses of Ray clusters: whether somebody is there who can be Ray, in seconds and without loading Ray.

Ray itself tries for minutes, or without end, and then ends the process.
"""

from __future__ import annotations

import os
import socket

from smd_evo.errors import InvalidValue

__all__ = ["CLIENT", "REFUSED", "answer", "check_address"]

CLIENT = "ray://"
"""What addresses of Ray Client begin with."""

REFUSED = "nobody listens there"
"""The answer of a machine that is there and has no such port open."""

_PATIENCE = 3.0
_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])  # RFC 9113: preface, no settings
_SETTINGS = 4


def check_address(address: str | None) -> None:
    """Raise if nobody is at an address who can be Ray.

    Args:
        address: host:port of a cluster's head, or ray://host:port of a server of Ray Client; of None, "local" and
            "auto" there is nothing to check.

    Raises:
        InvalidValue: nobody listens there, or somebody who does not speak gRPC, as Ray does; told within seconds.
    """
    if address in (None, "", "local", "auto"):
        return
    reason = answer(str(address), greeting=os.environ.get("RAY_USE_TLS", "0") in ("", "0"))
    if reason is not None:
        raise InvalidValue(
            f"ray-address: expected host:port of a Ray cluster that runs, got {address!r} ({reason}); "
            "`ray start --head` starts one and tells its address"
        )


def answer(address: str, timeout: float = _PATIENCE, *, greeting: bool = False) -> str | None:
    """Why nobody answers at host:port, or None if somebody does.

    Args:
        address: with or without ray:// before it.
        timeout: seconds to wait.
        greeting: whether the answer must be that of a gRPC server; those behind TLS understand no greeting.

    Example:
        >>> answer("127.0.0.1")
        'no port'
    """
    host, _, port = address.removeprefix(CLIENT).rpartition(":")
    if not host or not port.isdecimal():
        return "no port"
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout) as connection:
            if greeting:
                connection.settimeout(timeout)
                connection.sendall(_HELLO)
                # A frame: three bytes of length, then its type; the first one of a server must be its settings.
                if len(start := _received(connection, 4)) < 4 or start[3] != _SETTINGS:
                    return "something else than Ray listens there"
    except ConnectionRefusedError:
        return REFUSED
    except TimeoutError:
        return f"nobody answers there for {timeout:g} s"
    except (OSError, OverflowError, UnicodeError) as error:
        return " ".join(str(error).split())
    return None


def _received(connection: socket.socket, count: int) -> bytes:
    content = b""
    while len(content) < count and (more := connection.recv(count - len(content))):
        content += more
    return content
