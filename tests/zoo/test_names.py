"""A factory of the user's own is found; what is wrong about it is told apart from what is wrong inside of it."""

import pytest
from zoo_helpers import write_module

from smd_evo.errors import InvalidValue
from smd_evo.zoo.names import unknown, user_object

KNOWN = ("digits", "imagenet:PATH")


def test_a_function_in_the_current_folder(here):
    write_module(here, "my_module", "def make(): return 42")
    assert user_object("data", "my_module:make", KNOWN)() == 42


def test_a_function_in_a_package(here):
    (here / "my_package").mkdir()
    write_module(here / "my_package", "__init__", "")
    write_module(here / "my_package", "part", "def make(): return 43")
    assert user_object("data", "my_package.part:make", KNOWN)() == 43


def test_a_function_that_is_installed(here):
    assert user_object("data", "math:sqrt", KNOWN)(9) == 3


@pytest.mark.parametrize(
    "name",
    [
        "not_there:make",
        "not_there.part:make",
        ":make",
        "not_there:",
        ".part:make",
        "a b:make",
        "/data/x:y",
        "json.x:y",
    ],
)
def test_no_such_module(here, name):
    expected = "^data: expected one of digits, imagenet:PATH or module.path:factory, got "
    with pytest.raises(InvalidValue, match=expected) as caught:
        user_object("data", name, KNOWN)
    assert repr(name) in str(caught.value)
    if name.startswith("not_there") and not name.endswith(":"):
        assert str(caught.value).endswith("there is no module 'not_there'")


def test_a_name_that_was_meant_otherwise(here):
    with pytest.raises(InvalidValue, match=r"did you mean 'imagenet:PATH'\?; there is no module 'imagnet'$"):
        user_object("data", "imagnet:pictures", KNOWN)


def test_no_such_function(here):
    write_module(here, "my_other", "value = 3")
    with pytest.raises(InvalidValue, match=r"^data: expected a function 'make' in my_other, got None$"):
        user_object("data", "my_other:make", KNOWN)
    with pytest.raises(InvalidValue, match=r"^data: expected a function 'value' in my_other, got 3$"):
        user_object("data", "my_other:value", KNOWN)


@pytest.mark.parametrize(
    ("code", "error", "text"),
    [
        ("import missing_one", ModuleNotFoundError, "missing_one"),
        ("from math import no_such_name", ImportError, "no_such_name"),
        ("def make(:", SyntaxError, "syntax"),
        ("raise KeyError('mine')", KeyError, "mine"),
    ],
)
def test_errors_inside_of_the_module_come_through_with_their_place(here, code, error, text):
    write_module(here, "my_broken", code)
    with pytest.raises(error, match=text) as caught:
        user_object("data", "my_broken:make", KNOWN)
    assert not isinstance(caught.value, InvalidValue)
    places = [str(entry.path) for entry in caught.traceback] + [str(getattr(caught.value, "filename", ""))]
    assert any("my_broken.py" in place for place in places)


def test_an_unknown_name():
    assert str(unknown("model", "digit", "some words", KNOWN)) == (
        "model: expected some words, got 'digit'; did you mean 'digits'?"
    )
    assert str(unknown("model", "zzz", "some words", KNOWN)) == "model: expected some words, got 'zzz'"
