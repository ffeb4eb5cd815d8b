"""Packages that are imported only when a name is first taken from them.

mindone's UNet2DModel lies in packages whose ``__init__`` imports every model of mindone, and with them all of
transformers. A UNet uses none of it, and it is most of the start-up time; see "Start-up" in docs/performance.md. What
is imported is the same, only later.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.machinery
import importlib.metadata
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.metadata import packages_distributions
from typing import Any

LAZY_PACKAGES = frozenset(
    {
        # Each holds submodules that a UNet needs, and an ``__init__`` that imports far more.
        "mindone.models",
        "mindone.diffusers.models.transformers",
        "mindone.diffusers.models.unets",
        # Of schedulers: 0.8 s, and only noise levels by the beta distribution use it; 0.2 s, and only LMS does.
        "scipy.stats",
        "scipy.integrate",
    }
)


class LazyPackage(types.ModuleType):
    """A package whose submodules can be imported, and whose own ``__init__`` runs when a name is asked of it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__all__":
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        self.__class__ = types.ModuleType  # type: ignore[assignment]  # from here on a module like any other
        assert self.__spec__ is not None and self.__spec__.loader is not None
        self.__spec__.loader.exec_module(self)
        return getattr(sys.modules[self.__name__], name)  # an __init__ may put another module in its own place


class DeferringLoader(Loader):
    def __init__(self, loader: Loader):
        self.loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return LazyPackage(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        assert module.__spec__ is not None
        module.__spec__.loader = module.__loader__ = self.loader


class LazyFinder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in LAZY_PACKAGES:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = DeferringLoader(spec.loader)
        return spec


class LazyDistributions(Mapping[str, list[str]]):
    """What ``importlib.metadata.packages_distributions`` gives, computed when it is looked into.

    mindone asks for it at its import and hardly looks; it reads the files of every installed distribution.
    """

    @functools.cached_property
    def found(self) -> Mapping[str, list[str]]:
        return packages_distributions()

    def __getitem__(self, name: str) -> list[str]:
        return self.found[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.found)

    def __len__(self) -> int:
        return len(self.found)


@contextlib.contextmanager
def lazy_imports() -> Iterator[None]:
    """Import :data:`LAZY_PACKAGES` lazily inside; packages that are already imported stay as they are.

    ``sys.meta_path`` is as before afterwards, and so is the function that lists distributions.
    """
    finder, before = LazyFinder(), importlib.metadata.packages_distributions
    sys.meta_path.insert(0, finder)
    importlib.metadata.packages_distributions = LazyDistributions  # type: ignore[assignment]
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        importlib.metadata.packages_distributions = before
