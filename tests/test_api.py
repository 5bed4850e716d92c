"""The public names: the same in all four lists, documented with an example, and imported only when used."""

import ast
import doctest
import importlib
import inspect
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import manyhot
from manyhot.kernels import native

SOURCE = Path(manyhot.__file__)
HEAVY = ("torch", "numpy", "scipy", "sklearn", "polars", "typer")


def type_checking_imports(source: str) -> dict[str, str]:
    """Read `from module import name` under `if TYPE_CHECKING`: name -> module."""
    found: dict[str, str] = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            for line in node.body:
                assert isinstance(line, ast.ImportFrom)
                for alias in line.names:
                    assert alias.asname is None
                    found[alias.name] = str(line.module)
    return found


def test_four_lists_of_names_are_one() -> None:
    typed = type_checking_imports(SOURCE.read_text(encoding="utf-8"))
    names = list(manyhot.__all__)
    assert names == sorted(names)
    assert len(set(names)) == len(names)
    assert set(typed) == set(names)
    assert typed == {name: f"manyhot.{module}" for module, group in manyhot._HOME.items() for name in group}
    assert sum(map(len, manyhot._HOME.values())) == len(names)
    assert sorted(dir(manyhot)) == names


def test_the_check_of_the_lists_can_fail() -> None:
    source = SOURCE.read_text(encoding="utf-8")
    assert "smooth_labels" in type_checking_imports(source)
    assert "smooth_labels" not in type_checking_imports(source.replace("import smooth_labels", "import nothing"))


@pytest.mark.parametrize("name", manyhot.__all__)
def test_each_name_is_found_where_the_list_says(name: str) -> None:
    home = next(module for module, group in manyhot._HOME.items() if name in group)
    value = getattr(manyhot, name)
    assert value is getattr(importlib.import_module(f"manyhot.{home}"), name)
    assert value.__module__ == f"manyhot.{home}"
    assert value.__name__ == name


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'manyhot' has no attribute 'zlpr'"):
        manyhot.zlpr  # noqa: B018


# --- documentation ---------------------------------------------------------------------------------------------------


def undocumented(value: Any) -> str | None:
    """Say what a function's docstring lacks: a first sentence, or an example that doctest executes."""
    doc = inspect.getdoc(value) or ""
    first = doc.split("\n\n")[0].strip()
    if not first.endswith("."):
        return "no first sentence"
    if "\nExample:" not in doc:
        return "no section `Example:`"
    examples = [e for test in doctest.DocTestFinder(recurse=False).find(value) for e in test.examples]
    if not any(value.__name__ in e.source for e in examples):
        return "no example that uses it"
    if all(doctest.SKIP in e.options for e in examples):
        return "an example that is never executed"
    if not any(e.want for e in examples):
        return "an example that shows no result"
    return None


@pytest.mark.parametrize("name", manyhot.__all__)
def test_every_public_function_and_module_has_an_executed_example(name: str) -> None:
    value = getattr(manyhot, name)
    if inspect.isfunction(value) or name.endswith("Loss"):
        assert undocumented(value) is None
    else:
        assert (value.__doc__ or "").strip()


def test_the_check_of_examples_can_fail() -> None:
    def bare() -> None:
        """Do it."""

    def skipped() -> None:
        """Do it.

        Example:
            >>> skipped()  # doctest: +SKIP
            1
        """

    def silent() -> None:
        """Do it.

        Example:
            >>> x = silent
        """

    def fine() -> None:
        """Do it.

        Example:
            >>> fine()
        """

    assert undocumented(bare) == "no section `Example:`"
    assert undocumented(skipped) == "an example that is never executed"
    assert undocumented(silent) == "an example that shows no result"
    fine.__doc__ = (fine.__doc__ or "") + "    1\n"
    assert undocumented(fine) is None


def test_examples_are_collected(request: pytest.FixtureRequest) -> None:
    config = request.config
    assert "--doctest-modules" in config.getini("addopts")
    assert "src" in config.getini("testpaths")


# --- imports ---------------------------------------------------------------------------------------------------------


def imported_by(statement: str) -> set[str]:
    """Run a statement in a process of its own and return which of the heavy packages it has loaded."""
    code = f"import sys\n{statement}\nprint(*(name for name in {HEAVY!r} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_import_manyhot_imports_nothing_heavy() -> None:
    assert imported_by("import manyhot; dir(manyhot); manyhot.__all__; manyhot.__version__") == set()


def test_the_check_of_heavy_imports_can_fail() -> None:
    loaded = imported_by("import manyhot; manyhot.zlpr_loss")
    assert "torch" in loaded
    assert loaded.isdisjoint({"sklearn", "scipy", "polars", "typer"})


def test_py_typed_is_shipped() -> None:
    assert SOURCE.with_name("py.typed").is_file()


def test_a_missing_extra_names_the_command_that_installs_it() -> None:
    # In a process of its own: packages that are imported twice no longer have their modules as attributes.
    script = "import sys; sys.modules['polars'] = None; import manyhot; manyhot.load_run"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "ImportError: manyhot.load_run needs polars: pip install 'manyhot[toolkit]'" in done.stderr


def test_the_kernel_is_there_where_a_compiler_is() -> None:
    # `make` and CI say "require" where there is a compiler; an install that fell back in silence would fail here.
    if os.environ.get("MANYHOT_NATIVE") != "require":
        pytest.skip("MANYHOT_NATIVE=require is not set: no compiler, or not run by make")
    assert native.MISSING is None
