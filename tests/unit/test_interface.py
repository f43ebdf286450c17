"""The interface of the route to another node, on this machine's own interfaces."""

import os

import pytest

from dist_plm.distributed import interface
from dist_plm.distributed.interface import choose_interface, interface_towards


def test_the_route_to_this_machine_is_its_loopback_interface():
    assert interface_towards("127.0.0.1") == "lo"
    assert interface_towards("no.such.host.invalid") == ""


@pytest.mark.parametrize(
    ("own", "master", "before", "after"),
    [
        (True, False, None, "eth7"),  # Debian's 127.0.1.1, and a master elsewhere
        (True, False, "ib0", "ib0"),
        (True, True, None, None),  # one machine
        (False, False, None, None),  # gloo's own choice is right
    ],
)
def test_an_interface_is_named_where_the_host_name_is_loopback(own, master, before, after, monkeypatch):
    for variable in interface._VARIABLES:
        monkeypatch.setenv(variable, before or "")  # what is set is taken back, what was not there is not
        if not before:
            monkeypatch.delenv(variable)
    monkeypatch.setattr(interface, "_is_loopback", lambda host: master if host == "master" else own)
    monkeypatch.setattr(interface, "interface_towards", lambda host: "eth7")
    choose_interface("master")
    assert [os.environ.get(variable) for variable in interface._VARIABLES] == [after, after]
