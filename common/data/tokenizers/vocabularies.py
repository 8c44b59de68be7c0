"""Tokenizers from the vocabulary that a GGUF file holds: byte-level BPE, and SentencePiece's BPE.

GGUF names the tokenizer's kind and how it splits text before pairs are merged; `PRE_TOKENIZERS` has
the ways of splitting that are known here. The names are those of llama.cpp.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from common.config import ConfigError, pick
from common.data.tokenizers.byte_pairs import BytePairs, library_module

# Types of a token in GGUF.
UNKNOWN, CONTROL, USER_DEFINED = 2, 3, 4
SPACE = '\N{LOWER ONE EIGHTH BLOCK}'  # stands for a space in SentencePiece

# Regular expressions by which published tokenizers split a text into words.
CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
REST = r' ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+'
QWEN2 = rf'{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{REST}'
LLAMA3 = rf'{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{REST}'


class Splitting(NamedTuple):
  """How a byte-level tokenizer splits a text.

  Attributes:
    regex: words; '': those of GPT-2.
    digits: whether each digit is a word.
    nfc: whether the text is first composed to Unicode's NFC.
    ignore_merges: whether a word of the vocabulary is one token, whatever its merges.
  """

  regex: str = ''
  digits: bool = False
  nfc: bool = False
  ignore_merges: bool = False


PRE_TOKENIZERS: Mapping[str, Splitting] = {
  'gpt-2': Splitting(),
  'smollm': Splitting(digits=True),
  'starcoder': Splitting(digits=True),
  'qwen2': Splitting(QWEN2, nfc=True),
  'deepseek-r1-qwen': Splitting(QWEN2, nfc=True),
  'llama-bpe': Splitting(LLAMA3, ignore_merges=True),
}


class Vocabulary(NamedTuple):
  """The tokenizer in a GGUF file.

  Attributes:
    model: 'gpt2' (byte-level BPE) or 'llama' (SentencePiece's BPE).
    pre: a key of PRE_TOKENIZERS, for 'gpt2'.
    tokens: the name of each token.
    types: the type of each token; empty: all are normal.
    merges: for 'gpt2', pairs of tokens, each 'a b', in the order of merging.
    scores: for 'llama', the score of each token; pairs with a higher score are merged first.
    special: ids by role: bos, eos, unknown.
    ends: ids of the tokens that end a text.
    adds: the roles that are added to every text: bos, eos.
    space_prefix: for 'llama', whether a space is put before a text.
  """

  model: str
  pre: str
  tokens: Sequence[str]
  types: Sequence[int]
  merges: Sequence[str]
  scores: Sequence[float]
  special: Mapping[str, int]
  ends: Sequence[int]
  adds: Sequence[str]
  space_prefix: bool

  def build(self, where: str) -> BytePairs:
    """The tokenizer. Raises ConfigError, which names the file `where`, for one unknown here."""
    kinds = {'gpt2': _byte_level, 'llama': _sentence_piece}
    library = pick(kinds, self.model, f'tokenizer.ggml.model in {where}:')(self, where)
    self._add_tokens(library)
    self._add_roles(library)
    names = tuple(self.tokens[token] for token in self.ends)
    return BytePairs(library.to_str(), names)

  def named(self, role: str) -> str:
    """The name of the token of a role; '' if there is none."""
    token = self.special.get(role)
    return self.tokens[token] if token is not None and 0 <= token < len(self.tokens) else ''

  def _add_tokens(self, library: Any) -> None:
    """Tokens that are found in a text before it is split: control tokens, and the user's own."""
    added = library_module().AddedToken
    typed = zip(self.tokens, self.types, strict=True) if len(self.types) else ()
    chosen = [(name, kind) for name, kind in typed if kind in (UNKNOWN, CONTROL, USER_DEFINED)]
    for name, kind in chosen:
      special = kind != USER_DEFINED
      token = added(name, special=special, normalized=False)
      (library.add_special_tokens if special else library.add_tokens)([token])

  def _add_roles(self, library: Any) -> None:
    """Puts the tokens of `adds` before and after a text, for programs that ask for them."""
    names = {role: self.named(role) for role in self.adds}
    used = [(name, self.special[role]) for role, name in names.items() if name]
    if used:
      template = [names.get('bos'), '$A', names.get('eos')]
      library.post_processor = library_module().processors.TemplateProcessing(
        single=[part for part in template if part], special_tokens=used
      )


def _byte_level(vocabulary: Vocabulary, where: str) -> Any:
  """Byte-level BPE (Radford et al. 2019)."""
  module = library_module()
  name = vocabulary.pre or 'gpt-2'
  if name == 'default':  # of files from before the key existed, which do not say how to split
    name = 'gpt-2'
  splitting = pick(PRE_TOKENIZERS, name, f'tokenizer.ggml.pre in {where}:')
  ids = {token: i for i, token in enumerate(vocabulary.tokens)}
  pairs = [tuple(pair.split(' ', 1)) for pair in vocabulary.merges]
  wrong = [pair for pair in pairs if len(pair) != 2 or not {*pair, ''.join(pair)} <= ids.keys()]
  if wrong:
    raise ConfigError(
      f'{where}: tokenizer.ggml.merges has {" ".join(wrong[0])!r:.60}, which must be two tokens '
      'that are one token together'
    )
  model = module.models.BPE(ids, pairs, ignore_merges=splitting.ignore_merges)
  library = module.Tokenizer(model)
  pre = module.pre_tokenizers
  parts = [pre.Digits(individual_digits=True)] if splitting.digits else []
  if splitting.regex:
    parts.append(pre.Split(module.Regex(splitting.regex), 'isolated'))
  parts.append(pre.ByteLevel(add_prefix_space=False, use_regex=not splitting.regex))
  library.pre_tokenizer = pre.Sequence(parts)
  library.decoder = module.decoders.ByteLevel()
  if splitting.nfc:
    library.normalizer = module.normalizers.NFC()
  return library


def _sentence_piece(vocabulary: Vocabulary, where: str) -> Any:
  """BPE of SentencePiece (Kudo & Richardson 2018) with bytes for unknown characters, as in Llama.

  The file has a score for each token instead of a list of merges: the pair whose merged token has
  the highest score is merged first.
  """
  module = library_module()
  if len(vocabulary.scores) != len(vocabulary.tokens):
    raise ConfigError(
      f'{where}: tokenizer.ggml.scores must have one score for each of the '
      f'{len(vocabulary.tokens)} tokens, got {len(vocabulary.scores)}'
    )
  ids = {token: i for i, token in enumerate(vocabulary.tokens)}
  merges = _merges_of(ids, vocabulary)
  unknown = vocabulary.named('unknown') or None
  model = module.models.BPE(ids, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True)
  library = module.Tokenizer(model)
  normalizers, decoders = module.normalizers, module.decoders
  prefix = [normalizers.Prepend(SPACE)] if vocabulary.space_prefix else []
  library.normalizer = normalizers.Sequence([*prefix, normalizers.Replace(' ', SPACE)])
  steps = [decoders.Replace(SPACE, ' '), decoders.ByteFallback(), decoders.Fuse()]
  steps += [decoders.Strip(' ', 1, 0)] if vocabulary.space_prefix else []
  library.decoder = decoders.Sequence(steps)
  return library


def _merges_of(ids: Mapping[str, int], vocabulary: Vocabulary) -> list[tuple[str, str]]:
  """All pairs of tokens that are one token together, the highest score of that token first."""
  found = []
  for token, score in zip(vocabulary.tokens, vocabulary.scores, strict=True):
    splits = ((token[:i], token[i:]) for i in range(1, len(token)))
    pairs = [pair for pair in splits if pair[0] in ids and pair[1] in ids]
    # Several ways to one token: the one of older parts first, as they were merged in training.
    found += [(-score, ids[a], ids[b], (a, b)) for a, b in pairs]
  return [pair for *_, pair in sorted(found)]
