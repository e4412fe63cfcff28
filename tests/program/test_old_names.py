"""Names of 0.1 that work for one release: `app` is the library, too."""

import pytest

import app
import swiftmedsam
from swiftmedsam.settings import LITEMEDSAM, MODES


def test_the_names_of_app_are_those_of_the_library_with_a_warning():
    for name in swiftmedsam.__all__:
        with pytest.warns(DeprecationWarning, match=f"app.{name} is swiftmedsam.{name} now"):
            assert getattr(app, name) is getattr(swiftmedsam, name)
    with pytest.warns(DeprecationWarning, match="app.segment is swiftmedsam.segment_case now"):
        assert app.segment is swiftmedsam.segment_case


def test_what_neither_has_is_an_error():
    with pytest.raises(AttributeError, match="module 'app' has no attribute 'nothing'"):
        app.nothing  # noqa: B018


def test_mode_exact_is_litemedsam():
    assert MODES["exact"] is MODES["litemedsam"] is LITEMEDSAM
