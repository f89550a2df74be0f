"""Models that register themselves as soon as transformers is there, so that `import emocap` alone loads nothing."""

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

__all__ = ["register_with_transformers"]


def register_with_transformers() -> None:
    """Registers emocap's classes: at once where transformers is imported already, else when it will have been."""
    if "transformers" in sys.modules:
        importlib.import_module("emocap.models")
    else:
        sys.meta_path.insert(0, FinderOfTransformers())


class FinderOfTransformers(MetaPathFinder):
    """Finds transformers where the others do, with a loader that imports `emocap.models` after it."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "transformers":
            return None
        finders = [finder for finder in sys.meta_path if finder is not self and hasattr(finder, "find_spec")]
        found = (finder.find_spec(fullname, path, target) for finder in finders)
        spec = next((spec for spec in found if spec is not None), None)
        if spec is not None and spec.loader is not None:
            spec.loader = RegisteringLoader(spec.loader, self)
        return spec


class RegisteringLoader(Loader):
    """Loads transformers by its own loader, which stands in its place from then on, then imports `emocap.models`.

    `emocap.models` registers its classes at its end. Where it is itself what imports transformers, it goes on to
    there without this.
    """

    def __init__(self, loader: Loader, finder: FinderOfTransformers):
        self.loader, self.finder = loader, finder

    def __getattr__(self, name: str) -> object:
        return getattr(self.loader, name)  # get_source and the like, for whoever only looks the module up

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self.loader
        if module.__spec__ is not None:
            module.__spec__.loader = self.loader
        self.loader.exec_module(module)
        if self.finder in sys.meta_path:
            sys.meta_path.remove(self.finder)
        if "emocap.models" not in sys.modules:
            importlib.import_module("emocap.models")
