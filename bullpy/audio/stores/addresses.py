"""Which addresses a download may lead to, and sockets that go there and nowhere else.

A name is looked up once, every address of it is checked, and the socket goes to an address that
was checked. Looking the name up again to connect would let its owner give another answer.
"""

from __future__ import annotations

import ipaddress
import socket
from typing import NamedTuple

from bullpy.audio.errors import StoreError, StoreRefusedError
from bullpy.audio.stores.transfer import Abort

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052, section 2.1
# What the tables of older Pythons call global: IANA's special-purpose registries say otherwise.
_SPECIAL = tuple(
    map(
        ipaddress.ip_network,
        (
            *("192.0.0.0/24", "192.88.99.0/24"),
            *("64:ff9b:1::/48", "3fff::/20", "5f00::/16", "fec0::/10"),
        ),
    )
)


class Endpoint(NamedTuple):
    """One checked address of a host."""

    family: socket.AddressFamily
    sockaddr: tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]


def resolve(host: str, port: int, *, allow_private: bool) -> list[Endpoint]:
    """All addresses of a host.

    Args:
        host: A name or an address.
        port: The port.
        allow_private: Whether addresses that are not public pass.

    Raises:
        StoreRefusedError: One of them is not public: private, loopback, link-local (where
            clouds hand out credentials), multicast, reserved, or an IPv6 form of such an
            IPv4 address.
        StoreError: The name cannot be resolved now.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise StoreError(
            f"The host {host!r} cannot be resolved ({error}).",
            cause="The name is wrong, or the name server is away.",
        ) from error
    if not allow_private:
        for _family, _kind, _protocol, _name, sockaddr in found:
            address = ipaddress.ip_address(str(sockaddr[0]).partition("%")[0])
            if not public(address):
                raise StoreRefusedError(
                    f"The host {host!r} is not connected to: {address} is no public address.",
                    cause="It is in a private network, or somebody wants to look into one.",
                    fix="Set BULLPY_AUDIO_ALLOW_PRIVATE=1 if the store is in a private network.",
                )
    return [Endpoint(family, sockaddr) for family, _kind, _protocol, _name, sockaddr in found]


def public(address: _Address) -> bool:
    """Whether the whole internet may be at that address, its embedded IPv4 address included."""
    inner = _translated(address)
    if inner is not None:
        return public(inner)
    if not address.is_global or address.is_multicast or address.is_reserved:
        return False
    if any(address.version == net.version and address in net for net in _SPECIAL):
        return False
    relayed = address.sixtofour if isinstance(address, ipaddress.IPv6Address) else None
    return relayed is None or public(relayed)


def connect(endpoints: list[Endpoint], host: str, timeout: float, abort: Abort) -> socket.socket:
    """A socket to the first of the addresses that answers.

    Args:
        endpoints: As `resolve` gave them.
        host: Names it in messages.
        timeout: Seconds for each address, and for each later operation on the socket.
        abort: Ends it between two addresses. A connect that hangs is left to its thread.

    Raises:
        StoreError: None answers.
    """
    reason: object = "no address"
    for family, sockaddr in endpoints:
        abort.check()
        opened = socket.socket(family, socket.SOCK_STREAM)
        opened.settimeout(timeout)
        try:
            opened.connect(sockaddr)
        except OSError as error:
            opened.close()
            reason = error.strerror or error
        else:
            return opened
    raise StoreError(
        f"The host {host!r} cannot be connected to ({reason}).",
        cause="The server is down, or a firewall is in the way.",
    )


def _translated(address: _Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that an IPv6 address is another spelling of, if it is one."""
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped
