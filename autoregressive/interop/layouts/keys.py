"""The one reader of `config.json` of published weights: no key is silently ignored.

A key is known, can be ignored because it does not change the outputs, or is refused by its name. A
key whose value is null counts as absent, as it does for `transformers`.
"""

import sys
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from common.config import ConfigError, suggestion

# {type of a key: (types that its JSON value may have, how messages describe them)}
JSON_TYPES = {
  int: (int, 'a whole number from 1 to 2,147,483,647'),
  float: ((int, float), 'a finite number above 0'),
  bool: (bool, 'true or false'),
  str: (str, 'a text'),
  dict: (dict, 'an object'),
  list: (list, 'a list'),
}
# {type of a key: the largest value}: of an array's axis, and of a float.
LARGEST = {int: 2**31 - 1, float: sys.float_info.max}
SMALLEST = {int: 1, float: sys.float_info.min}
# Keys of any model that describe its files, its training or how to sample from it.
DESCRIPTIONS = frozenset(
  """
  model_type architectures transformers_version torch_dtype dtype auto_map tokenizer_class prefix
  _name_or_path _commit_hash _attn_implementation attn_implementation use_cache return_dict
  return_dict_in_generate output_attentions output_hidden_states output_past output_scores
  torchscript use_bfloat16 tf_legacy_loss chunk_size_feed_forward gradient_checkpointing
  initializer_range is_decoder tie_encoder_decoder finetuning_task problem_type id2label label2id
  task_specific_params bos_token_id eos_token_id pad_token_id sep_token_id unk_token_id
  decoder_start_token_id forced_bos_token_id forced_eos_token_id max_length min_length do_sample
  early_stopping num_beams num_beam_groups diversity_penalty temperature top_k top_p typical_p
  repetition_penalty length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size
  bad_words_ids num_return_sequences remove_invalid_values exponential_decay_length_penalty
  suppress_tokens begin_suppress_tokens transformers.js_config
  """.split()  # noqa: SIM905
)
# Values that every model here has; another value changes the outputs.
FIXED = {'is_encoder_decoder': False, 'pruned_heads': {}}


class Keys(NamedTuple):
  """The keys of an object in `config.json`.

  Attributes:
    required: the type of each key that must be given.
    optional: (type, default) of each key that may be left out.
    fixed: the only value that a key may have, because the network here computes nothing else.
    ignored: keys that do not change the outputs.
  """

  required: Mapping[str, type]
  optional: Mapping[str, tuple[type, Any]] = {}
  fixed: Mapping[str, Any] = {}
  ignored: Collection[str] = ()

  def read(self, found: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The values of the required and the optional keys.

    Args:
      found: the object.
      where: its file, for messages.

    Raises:
      ConfigError: for the first key that is missing, unknown, or has a value of another type, out
        of range, or not supported.
    """
    found = {key: value for key, value in found.items() if value is not None}
    known = {*self.required, *self.optional, *self.fixed, *self.ignored}
    for key, value in found.items():
      if key not in known:
        raise ConfigError(
          f'{where} has an unknown key {key!r} ({value!s:.60}), which may change the outputs; '
          f'remove it if it does not.{suggestion(key, {*self.required, *self.optional})}'
        )
      if key in self.fixed and value != self.fixed[key]:
        raise ConfigError(
          f'{where} has {key}={value!r}, which is not supported; only {self.fixed[key]!r} is'
        )
    types = dict(self.required) | {key: kind for key, (kind, _) in self.optional.items()}
    values = {key: default for key, (_, default) in self.optional.items()}
    for key, kind in types.items():
      if key in found:
        values[key] = _checked(key, found[key], kind, where)
      elif key in self.required:
        raise ConfigError(f'{where} lacks {key!r}, which must be {JSON_TYPES[kind][1]}')
    return values


def _checked(key: str, value: Any, kind: type, where: str) -> Any:
  """The value as its type. Raises ConfigError for another type, or a number out of range."""
  types, description = JSON_TYPES[kind]
  # Python counts true and false as whole numbers.
  fits = isinstance(value, types) and (kind is bool or not isinstance(value, bool))
  if not fits or (kind in LARGEST and not SMALLEST[kind] <= value <= LARGEST[kind]):
    raise ConfigError(f'{where} has {key}={value!s:.60}; it must be {description}')
  return kind(value)
