"""Names for the leaves of pytrees."""

import jax


def path_name(path: tuple) -> str:
  """'a/b/kernel' for a path as `jax.tree_util.tree_map_with_path` gives it."""
  return jax.tree_util.keystr(path, simple=True, separator='/')
