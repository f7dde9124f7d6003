"""transformers without what an agent never does: compiling, training, and tensors that are spread over processes.

As it stands, `import transformers.modeling_utils` brings torch's compiler, sympy, torch.distributed.tensor, accelerate
and scipy with it, for decorators and branches that run only there. That is a third of what an idle agent held (115 MB)
and half of the time until it was ready. Here this process has no torch.distributed, as torch is built for some systems
anyway, and torch's compiler is imported when something else is asked of it than to leave a function alone.

In the same way torch has no sympy (37 MB with what uses it) until a size is a symbol. Outlines on the meta device ask
for it at every step, of sizes that are numbers.
"""

from __future__ import annotations

import importlib
import logging
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

COMPILER = "torch._dynamo"
LEAVING_ALONE = frozenset({"allow_in_graph", "assume_constant_result", "disable", "disallow_in_graph"})
"""Decorators of the compiler that matter to what is compiled only."""
SYMBOLS = "torch.fx.experimental.symbolic_shapes"
STANDING_ALONE = "_trace_wrapped_higher_order_op"
"""A module inside of it that is used for itself, by attention masks."""
UNUSED = ("accelerate", "dill", "scipy", "trio")
"""Packages that transformers, torch and httpx use where they are installed."""
NEEDED = (
    "transformers.modeling_utils", "transformers.generation.utils", "transformers.masking_utils",
    "transformers.cache_utils", "transformers.core_model_loading", "transformers.models.auto.modeling_auto",
)  # fmt: skip
"""What stages use of it, and what any model's module imports."""


OF_NUMBERS: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(
        ("expect_true", "guard_or_false", "guard_or_true", "guard_size_oblivious", "guarding_hint_or_throw",
         "statically_known_true"), lambda size: size,
    ),
    "has_guarding_hint": lambda size: True,
    "is_nested_int": lambda size: False,
    "sym_and": lambda *sizes: all(sizes),
    "sym_or": lambda *sizes: any(sizes),
    "sym_eq": lambda one, other: list(one) == list(other) if isinstance(one, list | tuple) else one == other,
}  # fmt: skip
"""What torch asks of sizes, where they are numbers."""


def import_transformers() -> None:
    """Import it, once. Where a later version does not come so, it comes whole, and the log says so."""
    if NEEDED[0] in sys.modules:
        return
    import torch.distributed

    torch.distributed.is_available = lambda: False
    try:
        _put_off_compiler()
        _put_off_symbols()
        with _absent(UNUSED):
            _import()
    except Exception as error:
        log.warning("transformers is imported with all that it may use: %s: %s", type(error).__name__, error)
        _real(COMPILER)
        _import()


def _import() -> None:
    for name in NEEDED:
        importlib.import_module(name)


@contextmanager
def _absent(packages: tuple[str, ...]) -> Iterator[None]:
    """They are not found meanwhile, unless they were imported before."""
    hidden = [name for name in packages if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None is how Python says that there is none
    try:
        yield
    finally:
        for name in hidden:
            sys.modules.pop(name, None)


def _put_off_compiler() -> None:
    import torch

    if COMPILER not in sys.modules:
        sys.modules[COMPILER] = _Later(COMPILER, torch.__path__, dict.fromkeys(LEAVING_ALONE, _unchanged))
        _execute(f"{COMPILER}.{STANDING_ALONE}", [str(Path(torch.__file__).with_name("_dynamo"))])


def _put_off_symbols() -> None:
    """Have torch outline what has numbers for sizes without importing sympy."""
    import torch.fx.experimental

    if SYMBOLS in sys.modules or "sympy" in sys.modules:
        return
    sys.modules["sympy"] = _Later("sympy", None, {"Basic": type("Basic", (), {})})  # which no number is an instance of
    ready = {name: _of_numbers(name, function) for name, function in OF_NUMBERS.items()}
    sys.modules[SYMBOLS] = _Later(SYMBOLS, torch.fx.experimental.__path__, ready, is_package=False)


def _of_numbers(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """One of torch's functions of sizes: `function` where all are numbers, else torch's own."""

    def of_sizes(*sizes: Any) -> Any:
        if all(_is_number(size) for size in sizes):
            return function(*sizes)
        return getattr(_real(SYMBOLS), name)(*sizes)

    return of_sizes


def _is_number(size: Any) -> bool:
    if isinstance(size, list | tuple):
        return all(_is_number(each) for each in size)
    return isinstance(size, bool | int | float)


class _Later(types.ModuleType):
    """Stands where a module is not imported yet; it is as soon as anything is asked of it that does without it."""

    def __init__(
        self, name: str, where: Sequence[str] | None, ready: dict[str, Any], *, is_package: bool = True
    ) -> None:
        """`where`: the folders in which it is; `ready`: what there is without importing it."""
        super().__init__(name)
        vars(self).update(ready)
        self._where, self._ready, self._is_package = where, tuple(ready), is_package

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and not (name == "__path__" and self._is_package):  # by which what is inside is found
            raise AttributeError(name)
        return getattr(self._import(), name)

    def _import(self) -> types.ModuleType:
        name = self.__name__
        if sys.modules.get(name) is self:
            for each in self._ready:  # whoever has this module by now is to find the real ones in it
                vars(self).pop(each, None)
            parent, _, own = name.rpartition(".")
            found = _execute(name, self._where)
            if parent:
                setattr(sys.modules[parent], own, found)
        return importlib.import_module(name)


def _real(name: str) -> types.ModuleType:
    """The module itself, imported now at the latest."""
    standing = sys.modules.get(name)
    return standing._import() if isinstance(standing, _Later) else importlib.import_module(name)


def _execute(name: str, where: Sequence[str] | None) -> types.ModuleType:
    """Import a module from these folders. Its place is never empty: what it imports may ask for it."""
    spec = PathFinder.find_spec(name, where)
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError(f"No module named '{name}'")
    sys.modules[name] = module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _unchanged(function: Any = None, *arguments: Any, **options: Any) -> Any:
    """What a decorator makes of a function, with or without arguments of its own."""
    return _unchanged if function is None else function
