import pytest
from hypothesis import given
from hypothesis import strategies as st

from bullpy import errors, redis_nodes


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("h1:1,h2", ("h1:1", "h2:9")),
        (" h1:1 , ,h2:2,", ("h1:1", "h2:2")),
        (["h1:1", ("h2", 2), ["h3", "3"], {"host": "h4", "port": 4}, {"host": "h5"}], None),
        ("[::1]:7,[::2]", ("[::1]:7", "[::2]:9")),
        ([("::1", 7)], ("[::1]:7",)),
        ("h:1,h:1", ("h:1",)),
        ("", ()),
        ((), ()),
    ],
)
def test_every_spelling_of_a_list_of_nodes_is_read(value: object, expected: object) -> None:
    expected = expected if expected is not None else ("h1:1", "h2:2", "h3:3", "h4:4", "h5:9")
    assert redis_nodes.nodes(value, 9) == expected


@pytest.mark.parametrize(
    "value",
    [5, {"host": "h"}, [5], "h:x", "h:0", "h:65536", ["a", ("b",)], ":1", "[::1", "[::1]x", [{}]],
)
def test_what_is_no_list_of_nodes_is_refused(value: object) -> None:
    with pytest.raises(errors.ConfigurationError):
        redis_nodes.nodes(value, 9)


def test_url_in_place_of_a_node_is_refused_without_showing_its_password() -> None:
    with pytest.raises(errors.ConfigurationError) as caught:
        redis_nodes.nodes(["redis://:secret@h:1"], 9)
    assert "secret" not in str(caught.value)


@given(st.ip_addresses().map(str), st.integers(1, 65535))
def test_joined_node_splits_into_the_same(host: str, port: int) -> None:
    node = redis_nodes.join(host, port)
    assert redis_nodes.split(node) == (host, port)
    assert redis_nodes.nodes(node, 9) == (node,)
