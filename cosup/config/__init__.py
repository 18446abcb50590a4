"""Configs: their schema, and loading them from YAML; an error lists every mistake at once."""

from cosup.config.draft import Draft
from cosup.config.load import (
    check_config,
    config_differences,
    config_hash,
    config_tree,
    dump_config,
    load_config,
    read_config,
    settings,
)
from cosup.config.schema import Config

__all__ = [
    "Config",
    "Draft",
    "check_config",
    "config_differences",
    "config_hash",
    "config_tree",
    "dump_config",
    "load_config",
    "read_config",
    "settings",
]
