"""Lists everything that a flag can name, with a line each, its settings and their defaults.

twofold list
twofold list samplers
twofold list dpmpp_2m
twofold list --papers

Without an argument it lists the kinds; with a kind, the names of that kind; with any other name,
what has that name. --markdown prints docs/reference.md, and --papers docs/papers.md.
"""

from absl import flags

from experiments import cli
from experiments.list import pages, papers

MARKDOWN = flags.DEFINE_bool('markdown', False, 'Print the whole reference as Markdown.')
PAPERS = flags.DEFINE_bool('papers', False, 'Print what is known of the papers, as Markdown.')


def main(arguments: list[str]) -> None:
  if len(arguments) > 1:
    raise ValueError(f'one kind or name at a time, got {" ".join(arguments)!r}')
  if MARKDOWN.value and PAPERS.value:
    raise ValueError('--markdown and --papers print different pages: give one of them')
  for flag in (MARKDOWN, PAPERS):
    if flag.value and arguments:
      raise ValueError(f'--{flag.name} prints a whole page: leave out {arguments[0]!r}')
  if PAPERS.value:
    print(papers.page())
  elif MARKDOWN.value:
    print(pages.reference())
  else:
    print(pages.listing(arguments[0]) if arguments else pages.overview())


if __name__ == '__main__':
  cli.run(main, takes_arguments=True)
