"""Programs of clouds and clusters that only record how they were called, and answer as planned."""

import os
import pathlib

# Recorded with the characters 0 between words and 1 between calls, so that any word survives.
RECORD = """\
#!/bin/bash
printf '%s\\0' "${0##*/}" "$@" >> "$FAKE/calls"; printf '\\1' >> "$FAKE/calls"
calls=$(tr -cd '\\1' < "$FAKE/calls" | wc -c)
[[ ${0##*/} == gcloud && " ${FAILING-} " == *" $calls "* ]] && exit 1
"""
# The machines of Google Cloud are the folder $FAKE/worker; its state is in $FAKE/state.
GCLOUD = """\
shift 4  # --quiet compute tpus queued-resources
touch "$FAKE/state"
case $1 in
  list) cat "$FAKE/state"; sed -i s/PROVISIONING/ACTIVE/ "$FAKE/state" ;;
  create) echo PROVISIONING > "$FAKE/state"; mkdir -p "$FAKE/worker" ;;
  delete) rm -r "$FAKE/state" "$FAKE/worker" ;;
  scp) [[ $(< "$FAKE/state") == ACTIVE ]] || exit 255; cp "$2" "$3" "$FAKE/worker" ;;
  ssh)
    [[ $(< "$FAKE/state") == ACTIVE ]] || exit 255
    for word; do [[ $word == --command=* ]] && command=${word#--command=}; done
    cd "$FAKE/worker" && HOME=$PWD bash -c "$command"
    ;;
esac
"""
UV = """\
case $1 in
  venv) mkdir -p .venv/bin ;;
  pip) cp "$FAKE/bin/twofold" .venv/bin ;;
esac
"""
# Ends with the exit codes in $FAKE/codes, one after the other.
TWOFOLD = """\
echo "a line of the log"
printf '%s' "${SPACE-}" > "$FAKE/space"
read -r code < "$FAKE/codes"; sed -i 1d "$FAKE/codes"
case $code in
  slow) sleep 0.8; exit 0 ;;
  preempted) echo SUSPENDED > "$FAKE/state"; exit 143 ;;
  *) exit "$code" ;;
esac
"""
SRUN = """\
for word; do shift; [[ $word == --wait=* ]] && break; done
exec "$@"
"""
KEEP = 'cp "${!#}" "$FAKE/file"\n'  # the last word is a file
# Words that a shell, YAML or Kubernetes would change, and the value of a variable SPACE.
WORDS = (
  'train',
  "--workdir=/mnt/my runs/it's",
  '--config.network.multipliers=(1,2)',
  '--a="quoted" \\ $HOME $$ $(id) `id` *',
  '--b=two\nlines ',
  '--c=',
  '# ~ % {x} !',
  'ünï: - yes',
)
SPACE = "b c'$(id)"
PROGRAMS = {
  'gcloud': GCLOUD,
  'uv': UV,
  'twofold': TWOFOLD,
  'srun': SRUN,
  'scontrol': '',
  'sbatch': KEEP,
  'sky': KEEP,
  'kubectl': KEEP,
}


def environment(folder: pathlib.Path, *codes: str | int, failing: str = '') -> dict[str, str]:
  """Writes the programs to FOLDER/bin; returns the variables with which they are found.

  Args:
    folder: an empty folder.
    codes: how the runs of `twofold` end: an exit code, 'slow' (0, after a while) or 'preempted'.
    failing: the numbers of the calls that fail, if they are of gcloud: '3 5'.
  """
  programs = folder / 'bin'
  programs.mkdir()
  for name, text in PROGRAMS.items():
    path = programs / name
    path.write_text(RECORD + text)
    path.chmod(0o755)
  (folder / 'codes').write_text(''.join(f'{code}\n' for code in codes))
  return {
    'FAKE': str(folder),
    'FAILING': failing,
    'PATH': f'{programs}{os.pathsep}{os.environ["PATH"]}',
    'POLL': '0',
    'WAIT': '0',
  }


def calls(folder: pathlib.Path, program: str) -> list[list[str]]:
  """The words of each call of a program."""
  text = (folder / 'calls').read_text()
  found = [call.split('\0')[:-1] for call in text.split('\1')[:-1]]
  return [words for name, *words in found if name == program]
