"""What every run of a test would do again: reading the config files, half of a composition, and generating its data."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

from hydra.core.plugins import Plugins

from peftkit import paths
from peftkit.data import miniglue


def keep_config_files() -> None:
    """Keep what Hydra finds and loads in its own package and in conf/, which no test changes."""
    Plugins.instance()  # imports the modules of all plugins anew
    from hydra._internal.core_plugins.file_config_source import FileConfigSource
    from hydra._internal.core_plugins.importlib_resources_config_source import ImportlibResourcesConfigSource

    for source in (FileConfigSource, ImportlibResourcesConfigSource):
        for name in ("is_config", "is_group", "load_config"):
            setattr(source, name, _kept(getattr(source, name)))


def keep_generated_data() -> None:
    """Generate the data of each GLUE task once; what reads it copies what it changes."""
    miniglue.miniglue = cache(miniglue.miniglue)  # type: ignore[assignment]


def _kept(method: Any) -> Any:
    """Return a method of a config source that answers a question once for each folder."""
    conf = str(paths.conf_folder())

    @cache
    def found(kind: type, provider: str, path: str, config_path: str) -> Any:
        return method(kind(provider, path), config_path)

    def answer(self: Any, config_path: str) -> Any:
        if self.scheme() == "file" and self.path != conf:
            return method(self, config_path)
        return copy.deepcopy(found(type(self), self.provider, f"{self.scheme()}://{self.path}", config_path))

    return answer
