"""transformers without what an agent never does: compiling, training, and tensors that are spread over processes.

As it stands, `import transformers.modeling_utils` brings torch's compiler, sympy, torch.distributed.tensor, accelerate
and scipy with it, for decorators and branches that run only there. That is a third of what an idle agent held (115 MB)
and half of the time until it was ready. Here this process has no torch.distributed, as torch is built for some systems
anyway, and torch's compiler is imported when something else is asked of it than to leave a function alone.
"""

from __future__ import annotations

import importlib
import logging
import sys
import types
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

COMPILER = "torch._dynamo"
LEAVING_ALONE = frozenset({"allow_in_graph", "assume_constant_result", "disable", "disallow_in_graph"})
"""Decorators of the compiler that matter to what is compiled only."""
STANDING_ALONE = "_trace_wrapped_higher_order_op"
"""A module inside of it that is used for itself, by attention masks."""
UNUSED = ("accelerate", "dill", "scipy", "trio")
"""Packages that transformers, torch and httpx use where they are installed."""
NEEDED = (
    "transformers.modeling_utils", "transformers.generation.utils", "transformers.masking_utils",
    "transformers.cache_utils", "transformers.core_model_loading", "transformers.models.auto.modeling_auto",
)  # fmt: skip
"""What stages use of it, and what any model's module imports."""


def import_transformers() -> None:
    """Import it, once. Where a later version does not come so, it comes whole, and the log says so."""
    if NEEDED[0] in sys.modules:
        return
    import torch.distributed

    torch.distributed.is_available = lambda: False
    try:
        _put_off_compiler()
        with _absent(UNUSED):
            _import()
    except Exception as error:
        log.warning("transformers is imported with all that it may use: %s: %s", type(error).__name__, error)
        _compiler()
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
        sys.modules[COMPILER] = _Compiler(COMPILER)
        _execute(f"{COMPILER}.{STANDING_ALONE}", [str(Path(torch.__file__).with_name("_dynamo"))])


class _Compiler(types.ModuleType):
    """Stands where torch's compiler is not imported yet; it is as soon as anything else is asked of it."""

    def __getattr__(self, name: str) -> Any:
        if name in LEAVING_ALONE:
            return _unchanged
        if name.startswith("__") and name != "__path__":  # by which the modules inside of it are found
            raise AttributeError(name)
        return getattr(_compiler(), name)


def _compiler() -> types.ModuleType:
    """The compiler itself, imported now at the latest."""
    import torch

    if isinstance(sys.modules.get(COMPILER), _Compiler):
        torch._dynamo = _execute(COMPILER, torch.__path__)
    return importlib.import_module(COMPILER)


def _execute(name: str, where: Sequence[str]) -> types.ModuleType:
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
