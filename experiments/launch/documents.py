"""YAML that a person can read: keys in our order, text of several lines as a block."""

from typing import Any

import yaml


class _Dumper(yaml.SafeDumper):
  """A dumper of its own, so that the representer below changes no other."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
  style = '|' if '\n' in text else None
  return dumper.represent_scalar('tag:yaml.org,2002:str', text, style=style)


_Dumper.add_representer(str, _represent_text)


def to_yaml(document: dict[str, Any]) -> str:
  """A document of dicts, lists, text and numbers as YAML."""
  return yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=1000)
