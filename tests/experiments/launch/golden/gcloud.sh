#!/usr/bin/env bash
NAME=digits-1
WHERE=(--zone=us-west4-a)
CREATE=(--accelerator-type=v5litepod-16 --runtime-version=v2-alpha-tpuv5-lite --node-count=2 --node-prefix=digits-1 --spot)
COMMAND=(env 'TFDS_DATA_DIR=/mnt/runs/my data' twofold train --config=diffusion/images:digits --config.network.name=unet '--config.network.multipliers=(1,2)' '--config.train.steps=3 epochs' --workdir=/mnt/runs/Digits_1 --distributed=auto)
RESTARTS=3
STOPPED=75
install() {
  export PATH="$HOME/.local/bin:$PATH"
  command -v uv > /dev/null || curl -LsSf https://astral.sh/uv/install.sh | sh
  uv venv --quiet --allow-existing --python 3.11 .venv &&
    uv pip install --quiet --python .venv/bin/python -c constraints.txt '.[tpu]'
}
prepare() {
  mountpoint -q /mnt/runs || sudo mount '10.0.0.2:/my share' /mnt/runs
}

# Runs COMMAND on every worker of a queued resource of Cloud TPU, until it is done, then deletes the
# queued resource. Start it in the folder to install on the workers, a clone of twofold.
#
# Each step looks first at what is there, so the script may be stopped and started again at any time:
# a run goes on while the script is gone, and the script attaches to it again. To end a run, delete
# its queued resource.
#
# Exit code: that of the run; 1 if Google Cloud did not answer TRIES times in a row.

set -uo pipefail

POLL=${POLL:-30}  # seconds between two looks at the queue
WAIT=${WAIT:-10}  # seconds before another attempt; doubled each time, up to 300
TRIES=8

# On the workers. These functions are copied there with the settings above; their folder is ~/NAME.

# Holds the process that leads the session of the command. A reboot makes it another file.
leader_file() { echo "leader-$(< /proc/sys/kernel/random/boot_id)"; }

# Whether a process of the session lives: zombies do not.
alive() {
  [[ -e $(leader_file) ]] && ps -o stat= --sid "$(< "$(leader_file)")" | grep -q '^[^Z]'
}

# Unpacks and installs the tree, unless this worker has it.
unpack() {
  [[ -e $TREE/.installed ]] && return
  rm -rf "$TREE" && mkdir "$TREE" && tar -xf "../$NAME.tar" -C "$TREE" || return
  (cd "$TREE" && install && touch .installed)
}

# Starts the command in a session of its own, which outlives this connection, unless it runs or has
# ended: then its exit code is still to be read.
start() {
  [[ -e code ]] || alive && return
  prepare || return
  # SIGTERM is for the command. The shell around it stays, to write down the exit code.
  PATH=$PWD/$TREE/.venv/bin:$PATH setsid bash -c '
    trap : TERM
    cd "$0" && "$@"
    echo "$?" > ../code
  ' "$TREE" "${COMMAND[@]}" >> log 2>&1 < /dev/null &
  echo "$!" > "$(leader_file)"
  until alive || [[ -e code ]]; do sleep 0.1; done
}

# Shows the log until the command ends.
follow() {
  until [[ -e code ]] || ! alive; do sleep 0.5; done &
  tail -n 50 -F --sleep-interval=0.5 --pid="$!" log
}

# Prints the exit code of the command, or that it runs. 137: nothing is left of it.
code() {
  if [[ -e code ]]; then cat code; elif alive; then echo running; else echo 137; fi
}

# Ends what is left of the command, which has a minute to save, and forgets its exit code.
stop() {
  if alive; then pkill -TERM --session "$(< "$(leader_file)")"; fi
  for _ in {1..120}; do
    alive || break
    sleep 0.5
  done
  if alive; then pkill -KILL --session "$(< "$(leader_file)")"; fi
  rm -f code
}

# Here.

say() { echo "$(date +%H:%M:%S) $*" >&2; }

tpus() { gcloud --quiet compute tpus queued-resources "$@" "${WHERE[@]}" < /dev/null; }

# Calls a function on the workers: on_workers all FUNCTION, or on_workers 0 FUNCTION.
on_workers() { tpus ssh "$NAME" --node="$1" --worker="$1" --command="bash $NAME.sh $2"; }

# Writes what the workers get: the files that git tracks or would, and the functions above.
pack() {
  git ls-files -z --cached --others --exclude-standard |
    while IFS= read -r -d '' file; do
      if [[ -e $file ]]; then printf '%s\0' "$file"; fi
    done |
    tar --null --files-from=- -cf "$FILES/$NAME.tar" || return
  {
    printf 'NAME=%q TREE=%q\n' "$NAME" "$(cksum < "$FILES/$NAME.tar" | tr -s ' ' -)"
    printf 'COMMAND=('
    printf '%q ' "${COMMAND[@]}"
    printf ')\n'
    declare -f install prepare leader_file alive unpack start follow code stop
    # shellcheck disable=SC2016
    printf 'mkdir -p ~/"$NAME" && cd ~/"$NAME" && "$1"\n'
  } > "$FILES/$NAME.sh"
}

# Returns once the queued resource is active. It is created if it is missing or was preempted.
ready() {
  local state
  while state=$(tpus list --filter="name ~ /$NAME\$" --format='value(state.state)'); do
    case $state in
      ACTIVE) return ;;
      '')
        say "requesting $NAME: ${CREATE[*]}"
        tpus create "$NAME" --async "${CREATE[@]}" || return
        ;;
      SUSPENDED)
        say "$NAME was preempted"
        tpus delete "$NAME" --force --async || return
        ;;
      FAILED)
        say "Google Cloud could not fulfil the request:"
        tpus describe "$NAME" --format='yaml(state)' >&2
        tpus delete "$NAME" --force --async
        return 1
        ;;
      *) say "$NAME is $state" ;;
    esac
    sleep "$POLL"
  done
  return 1
}

# Sends the tree to all workers, installs it and starts the command. If the command has ended on the
# first worker, its other processes end first: they cannot go on alone.
begin() {
  tpus scp "$FILES/$NAME.tar" "$FILES/$NAME.sh" "$NAME:" --node=all --worker=all &&
    on_workers all unpack || return
  if [[ $exit_code ]]; then on_workers all stop || return; fi
  exit_code=
  on_workers all start
}

# Says what happened, and waits before another attempt, longer each time.
pause() {
  say "$1; trying again in $delay s"
  sleep "$delay"
  delay=$((delay * 2 > 300 ? 300 : delay * 2))
}

# Deletes the queued resource, and ends this script with an exit code.
finish() {
  for ((tries = 0; tries < TRIES; tries++)); do
    tpus delete "$NAME" --force && exit "$1"
    pause "$NAME is not deleted"
  done
  give_up
}

give_up() {
  say "gcloud failed $TRIES times in a row. Run this again, or delete $NAME, which may cost money:"
  say "gcloud compute tpus queued-resources delete $NAME --force ${WHERE[*]}"
  exit 1
}

FILES=$(mktemp -d)
trap 'rm -rf "$FILES"' EXIT
trap 'say "the run goes on: the same command attaches to it again"; exit 130' INT
pack || exit

tries=0 crashes=0 delay=$WAIT exit_code=
while ((tries < TRIES)); do
  if ! { ready && begin; }; then
    tries=$((tries + 1))
    pause 'a step failed'
    continue
  fi
  tries=0 delay=$WAIT
  on_workers 0 follow  # until the run ends, or the connection
  exit_code=$(on_workers 0 code)
  case $exit_code in
    0)
      say 'the run is finished'
      finish 0
      ;;
    "$STOPPED") say 'the run was stopped after saving, and goes on' ;;
    running | '')
      exit_code=
      pause 'the connection is lost'
      ;;
    *)
      crashes=$((crashes + 1))
      if ((crashes > RESTARTS)); then
        say "the run ended with exit code $exit_code, after $RESTARTS restarts"
        finish "$exit_code"
      fi
      pause "the run ended with exit code $exit_code"
      ;;
  esac
done
give_up
# bash THIS_FILE
