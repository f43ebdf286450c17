"""Choice of the network interface that connects the nodes."""

import fcntl
import ipaddress
import os
import socket
import struct

_ADDRESS_OF_INTERFACE = 0x8915  # SIOCGIFADDR of Linux
_VARIABLES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")


def choose_interface(master: str) -> None:
    """Set gloo's interface to the one that routes to `master`, where it would choose the loopback interface.

    gloo binds to the address that the host name resolves to: 127.0.1.1 on Debian and many clusters, which no other
    node can reach. An interface that the environment already names is kept.
    """
    if not _is_loopback(socket.gethostname()) or _is_loopback(master):
        return
    if name := interface_towards(master):
        for variable in _VARIABLES:
            os.environ.setdefault(variable, name)


def interface_towards(host: str) -> str:
    """The interface that routes to `host`; empty if there is no route. Sends no packet."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((host, 9))
            address = probe.getsockname()[0]
            for _, name in socket.if_nameindex():
                if _address(probe, name) == address:
                    return name
    except OSError:
        pass
    return ""


def _address(probe: socket.socket, interface: str) -> str:
    try:
        answer = fcntl.ioctl(probe.fileno(), _ADDRESS_OF_INTERFACE, struct.pack("256s", interface.encode()[:15]))
    except OSError:  # it has no IPv4 address
        return ""
    return socket.inet_ntoa(answer[20:24])


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(socket.gethostbyname(host)).is_loopback
    except OSError:
        return False
