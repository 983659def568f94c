"""The corpus of ``sona demo``: the docstrings of the Python standard library of the running interpreter.

Every machine that can run the demo has these documents, thousands of them, written by people for people, so
nothing has to be downloaded and nothing is made up.

The reading happens in a child process of the same interpreter (``python -I -S this_file``). Only an import
shows what a module really offers: half of the library is C, and much of the rest is re-exported, bound or
built at import time. Importing 250 modules into the caller would leave its ``sys.modules``, its
``readline`` and its ``atexit`` list changed for good, so the child does it and hands back text. That is
also why this file imports nothing but the standard library.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import json
import os
import pkgutil
import subprocess
import sys
import types
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum

__all__ = ["Corpus", "Document", "build_corpus"]

#: Longer docstrings are cut here: beyond it come tables and examples that say little about what the thing
#: is for.
MAX_CHARS = 2000

#: Top-level modules that are left out on purpose, with the reason that is reported.
_SKIP = {
    **dict.fromkeys(("antigravity", "this"), "does something visible when imported"),
    **dict.fromkeys(
        ("idlelib", "turtledemo", "test", "ensurepip", "lib2to3", "pydoc_data"), "an application or test data"
    ),
    **dict.fromkeys(("tkinter", "turtle"), "needs a GUI toolkit that many machines lack"),
    **dict.fromkeys(
        ("posix", "nt", "posixpath", "ntpath", "genericpath", "nturl2path"), "implements os and os.path"
    ),
    **dict.fromkeys(("sre_compile", "sre_constants", "sre_parse", "opcode"), "internal to re and dis"),
    **dict.fromkeys(("msilib", "msvcrt", "winreg", "winsound"), "exists on Windows only"),
    **dict.fromkeys(
        ("aifc", "asynchat", "asyncore", "audioop", "cgi", "cgitb", "chunk", "crypt", "distutils", "imghdr",
         "imp", "mailcap", "nis", "nntplib", "ossaudiodev", "pipes", "smtpd", "sndhdr", "spwd", "sunau",
         "telnetlib", "uu", "xdrlib"),
        "removed from newer versions of Python",
    ),
}  # fmt: skip

#: Packages whose submodules are left out: codec tables, platform back ends, start-up scripts.
_SKIP_SUBMODULES_OF = frozenset({"encodings", "venv", "curses"})


@dataclass(frozen=True, slots=True)
class Document:
    """One documented thing of the standard library.

    Attributes
    ----------
    name
        Qualified name under which a user reaches it: ``"os.path.getmtime"``, ``"str.split"``, ``"json"``.
    kind
        ``"module"``, ``"class"``, ``"function"``, ``"method"``, ``"property"`` or ``"object"``.
    text
        The docstring, whitespace at the ends removed, at most 2,000 characters.
    """

    name: str
    kind: str
    text: str

    @property
    def summary(self) -> str:
        """First paragraph of the docstring."""
        return self.text.partition("\n\n")[0]

    @property
    def indexed(self) -> str:
        """What is embedded: name and summary, then name and docstring."""
        return f"{self.name}\n{self.summary}\n{self.name}\n{self.text}"


@dataclass(frozen=True, slots=True)
class Corpus:
    """All documents in a fixed order (by name), and what was left out.

    Attributes
    ----------
    documents
        The documents, sorted by name; names are unique.
    skipped
        What was left out and why: reason to number of things.
    python
        Version of the interpreter that was read, for instance ``"3.11.7"``.
    """

    documents: tuple[Document, ...]
    skipped: dict[str, int]
    python: str

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the documents, in order."""
        return tuple(d.name for d in self.documents)

    def __len__(self) -> int:
        return len(self.documents)


@functools.lru_cache(maxsize=1)
def build_corpus() -> Corpus:
    """Read the documentation of the running interpreter's standard library.

    Same interpreter, same corpus, in the same order. The result is kept for the life of the process.

    Returns
    -------
    Corpus
        Between five and ten thousand documents.

    Raises
    ------
    ChildProcessError
        If the interpreter cannot be started again, or its child fails; the message carries what the child
        said.

    Notes
    -----
    Takes one to three seconds, in a child process that imports the library; the caller imports nothing.

    Examples
    --------
    >>> corpus = build_corpus()
    >>> {"str.split", "os.path.getmtime", "json.loads"} <= set(corpus.names)
    True
    """
    if not sys.executable:
        raise ChildProcessError("build_corpus needs the path of the interpreter, but sys.executable is empty")
    # -I: no site packages of the user, no PYTHON* variables (so no -O that would strip docstrings); -S: no
    # .pth start-up code.
    run = subprocess.run(
        [sys.executable, "-I", "-S", "-W", "ignore", __file__],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    if run.returncode != 0:
        said = run.stderr.decode("utf-8", "replace").strip()[-2000:]
        raise ChildProcessError(f"reading the standard library failed with status {run.returncode}: {said}")
    data = json.loads(run.stdout)
    documents = tuple(Document(*row) for row in data["documents"])
    return Corpus(documents, dict(data["skipped"]), str(data["python"]))


# --- in the child -----------------------------------------------------------------------------------------


def _module_names(skipped: Counter[str]) -> Iterator[str]:
    """Public modules, and the public submodules of packages, in sorted order."""
    for top in sorted(sys.stdlib_module_names):
        if top.startswith("_"):
            skipped["private module"] += 1
        elif top in _SKIP:
            skipped[f"module: {_SKIP[top]}"] += 1
        else:
            yield from _with_submodules(top, skipped)
    yield "os.path"


def _with_submodules(name: str, skipped: Counter[str]) -> Iterator[str]:
    yield name
    if name in _SKIP_SUBMODULES_OF:
        skipped[f"submodules of {name}"] += 1
        return
    try:
        path = getattr(importlib.import_module(name), "__path__", None)
    except ImportError:
        return  # reported when the module itself is read
    for info in sorted(pkgutil.iter_modules(path or []), key=lambda i: i.name):
        if info.name.startswith("_") or info.name in {"test", "tests"}:
            skipped["private module"] += 1
        else:
            yield from _with_submodules(f"{name}.{info.name}", skipped)


def _unwrap(value: object) -> object:
    """Return the thing behind its aliases: ``random.choice`` is a method bound to a hidden instance."""
    if isinstance(value, types.BuiltinMethodType) and not isinstance(value.__self__, types.ModuleType):
        owner = value.__self__ if isinstance(value.__self__, type) else type(value.__self__)
        value = inspect.getattr_static(owner, value.__name__, value)
    if isinstance(value, types.MethodType | staticmethod | classmethod):
        value = value.__func__
    return value


def _own_doc(value: object) -> str:
    """Return the docstring of ``value`` itself, not the one of its type; empty if it has none."""
    try:
        doc = value.__doc__
    except Exception:  # noqa: BLE001 - a descriptor of any library type may raise anything; it then has no docstring
        return ""
    kind = type(value)
    # An instance shows the docstring of its type; that counts only where a private type exists for one
    # public object.
    borrowed = not isinstance(value, type) and doc == kind.__doc__
    if not isinstance(doc, str) or (borrowed and (kind.__name__[0] != "_" or isinstance(value, Enum))):
        return ""
    return inspect.cleandoc(doc)[:MAX_CHARS].strip()


def _is_public_member(module: types.ModuleType, name: str, value: object) -> bool:
    """Tell whether ``name`` is offered by ``module`` rather than only imported into it."""
    if isinstance(value, types.ModuleType) or name.startswith("_"):
        return False
    exported = getattr(module, "__all__", None)
    home = getattr(value, "__module__", None)
    if exported is not None:
        # Python 3.11 forgot to export asyncio.TaskGroup again from the package: what a submodule exports
        # counts too.
        inner = sys.modules.get(home) if home and home.startswith(f"{module.__name__}.") else None
        return name in exported or name in getattr(inner, "__all__", ())
    # C accelerators (`_csv`, `_json`) are implementation; what they define belongs to the module that shows
    # it.
    return home is None or home == module.__name__ or home.startswith("_")


def _is_private(dotted: str) -> bool:
    return any(part.startswith("_") for part in dotted.split("."))


def _members(cls: type) -> Iterator[tuple[str, object]]:
    """Members a class documents itself, or takes from a private base class (``socket.socket.recv``)."""
    seen: set[str] = set()
    for base in cls.__mro__:
        if base is not cls and not _is_private(f"{base.__module__}.{base.__name__}"):
            return  # this base and what lies behind it are documented under their own names
        for name, value in vars(base).items():
            if not name.startswith("_") and name not in seen:
                seen.add(name)
                yield name, value


_FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType, types.MethodType, functools.partial)
_METHODS = (
    *_FUNCTIONS,
    staticmethod,
    classmethod,
    types.MethodDescriptorType,
    types.ClassMethodDescriptorType,
)
_PROPERTIES = (property, functools.cached_property, types.GetSetDescriptorType, types.MemberDescriptorType,
               types.DynamicClassAttribute)  # fmt: skip


class _Collector:
    """Gathers documents, one name per thing: the shortest that is true to what it calls itself."""

    def __init__(self) -> None:
        self.skipped: Counter[str] = Counter()
        self._best: dict[int, tuple[tuple[int, int, int, str], str, str]] = {}
        # Identities are addresses: what is dropped could be taken for another thing.
        self._alive: list[object] = []
        self._classes: set[str] = set()

    def add(self, name: str, kind: str, value: object, aliased: bool = False) -> None:
        value = _unwrap(value)
        doc = _own_doc(value)
        if not doc:
            self.skipped["no docstring"] += 1
            return
        if doc.startswith("Alias for field number"):
            self.skipped["field of a named tuple"] += 1
            return
        self._alive.append(value)
        last = name.rpartition(".")[2]
        called = getattr(value, "__name__", last)
        is_builtin = getattr(importlib.import_module("builtins"), name.partition(".")[0], None) is not None
        # Builtins first, then the name with the fewest dots, then the one it carries itself (OSError, not
        # IOError).
        rank = (0 if is_builtin else 1 + name.count("."), int(aliased or called != last), len(name), name)
        known = self._best.get(id(value))
        if known is None or rank < known[0]:
            self._best[id(value)] = (rank, kind, doc)
        if known is not None:
            self.skipped["another name for the same thing"] += 1

    def add_class(self, name: str, cls: type) -> None:
        self.add(name, "class", cls)
        if name in self._classes:
            return
        self._classes.add(name)
        aliased = name.rpartition(".")[2] != cls.__name__
        for member, value in _members(cls):
            full = f"{name}.{member}"
            if isinstance(value, _METHODS):
                self.add(full, "method", value, aliased)
            elif isinstance(value, _PROPERTIES):
                self.add(full, "property", value, aliased)
            elif isinstance(value, type):
                self.add(full, "class", value, aliased)

    def add_module(self, module: types.ModuleType, prefix: str) -> None:
        if prefix:
            self.add(prefix[:-1], "module", module)
        for name in sorted(set(dir(module))):
            value = getattr(module, name, None)
            if name.startswith("_") or (prefix and not _is_public_member(module, name, value)):
                continue
            if isinstance(value, type):
                self.add_class(prefix + name, value)
            elif isinstance(value, _FUNCTIONS):
                self.add(prefix + name, "function", value)
            elif value is not None and _own_doc(value):
                self.add(prefix + name, "object", value)

    def documents(self) -> list[tuple[str, str, str]]:
        # unittest.main is a module and, under the same name, the class that hides it; the later kind in
        # this order stays.
        rows = sorted((rank[3], kind != "module", kind, doc) for rank, kind, doc in self._best.values())
        return [(name, kind, doc) for name, (_, kind, doc) in {row[0]: row[1:] for row in rows}.items()]


def _collect() -> dict[str, object]:
    collector = _Collector()
    collector.add_module(importlib.import_module("builtins"), "")
    for name in _module_names(collector.skipped):
        if name == "builtins" or name.endswith(".__main__"):
            continue
        try:
            module = importlib.import_module(name)
        except Exception as error:  # noqa: BLE001 - a module of another platform may fail in any way; it is counted, by type
            collector.skipped[f"cannot be imported here: {type(error).__name__}"] += 1
            continue
        collector.add_module(module, f"{name}.")
    return {
        "documents": collector.documents(),
        "skipped": dict(sorted(collector.skipped.items())),
        "python": ".".join(map(str, sys.version_info[:3])),
    }


def _main(write: Callable[[bytes], object]) -> None:
    # Some modules warn that they are deprecated; they are documented all the same.
    warnings.simplefilter("ignore")
    write(json.dumps(_collect()).encode())


if __name__ == "__main__":
    with os.fdopen(os.dup(1), "wb") as out:
        # Whatever a module prints while it is imported goes to stderr and cannot spoil the answer.
        os.dup2(2, 1)
        _main(out.write)
