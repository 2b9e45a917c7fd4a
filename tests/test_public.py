"""The public names: all there, all documented with what the house style asks for, and no module named like a function."""

import importlib
import inspect
import pkgutil

import pytest

import fixshape
from fixshape import errors

PACKAGES = ("audit", "backend", "collate", "detection", "export", "ops", "plan", "train")
PUBLIC = [
    (package, name)
    for package in PACKAGES
    for name in importlib.import_module(f"fixshape.{package}").__all__
    if callable(getattr(importlib.import_module(f"fixshape.{package}"), name))
]


def test_every_promised_name_is_there():
    for name in fixshape.__all__:
        assert getattr(fixshape, name) is not None
    assert dir(fixshape) == sorted(fixshape.__all__)
    with pytest.raises(AttributeError, match="module 'fixshape' has no attribute 'nothing'"):
        fixshape.nothing  # noqa: B018


@pytest.mark.parametrize("package", PACKAGES)
def test_all_is_whole(package):
    module = importlib.import_module(f"fixshape.{package}")
    assert len(set(module.__all__)) == len(module.__all__)
    assert all(hasattr(module, name) for name in module.__all__)


@pytest.mark.parametrize(("package", "name"), PUBLIC)
def test_documented(package, name):
    thing = getattr(importlib.import_module(f"fixshape.{package}"), name)
    text = inspect.getdoc(thing)
    assert text and text != inspect.getdoc(object), f"{name} has no docstring"
    if inspect.isfunction(thing):
        for parameter in inspect.signature(thing).parameters:
            assert f"{parameter}:" in text, f"{name}: argument {parameter} is not documented"
        assert "Returns:" in text or "Yields:" in text or inspect.signature(thing).return_annotation in ("None", None)


def test_no_module_shares_its_name_with_a_public_function():
    functions = {name for package in PACKAGES for name in importlib.import_module(f"fixshape.{package}").__all__}
    modules = {info.name.rpartition(".")[2] for info in pkgutil.walk_packages(fixshape.__path__, "fixshape.")}
    assert not functions & modules - set(PACKAGES)


def test_every_error_is_a_fixshape_error_and_a_builtin():
    found = [thing for thing in vars(errors).values() if inspect.isclass(thing) and thing.__module__ == errors.__name__]
    for error in found:
        if issubclass(error, Warning) or error is errors.FixshapeError:
            continue
        assert issubclass(error, errors.FixshapeError)
        assert any(base.__module__ == "builtins" and base is not Exception for base in error.__mro__[1:-3]), error
