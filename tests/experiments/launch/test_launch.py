"""What each backend would do: its file, word for word; its words, through a shell; its refusals."""

import os
import pathlib
import re
import subprocess

import pytest
import yaml

from experiments.launch import gcloud, gke, job, sky, slurm
from tests.experiments.commands import ended, refused
from tests.experiments.launch import jobset, standins

GOLDEN = pathlib.Path(__file__).with_name('golden')
TRAIN = [
  'train',
  '--config=diffusion/images:digits',
  '--config.network.name=unet',
  '--config.network.multipliers=(1,2)',
  '--config.train.steps=3 epochs',
]
SHARED = ['--', *TRAIN, '--workdir=/mnt/runs/Digits_1']
MOUNT = "mountpoint -q /mnt/runs || sudo mount '10.0.0.2:/my share' /mnt/runs"
# Each file is what the command prints with --dry_run: to renew one, write it there.
CASES = {
  'sky_tpu.yaml': [
    '--backend=sky',
    '--accelerator=tpu-v6e-16',
    '--spot',
    *['--', *TRAIN, '--workdir=gs://bucket/runs/Digits_1'],
  ],
  'sky_gpu.yaml': [
    '--backend=sky',
    '--accelerator=H100:8',
    '--nodes=2',
    '--infra=gcp/us-central1',
    f'--setup={MOUNT}',
    '--env=TFDS_DATA_DIR=/mnt/runs/data',
    *SHARED,
  ],
  'slurm.sh': [
    '--backend=slurm',
    '--nodes=2',
    '--gpus=8',
    '--time=12:00:00',
    '--partition=long',
    '--sbatch=--account=x',
    '--setup=module load cuda',
    '--env=TFDS_DATA_DIR=/shared/my data',
    *['--', *TRAIN, '--workdir=runs/Digits_1'],
  ],
  'gke.yaml': [
    '--backend=gke',
    '--accelerator=tpu-v6e-slice',
    '--topology=4x4',
    '--slices=2',
    '--image=us-docker.pkg.dev/project/images/twofold',
    '--claim=runs',
    '--queue=multislice-queue',
    '--spot',
    '--env=TFDS_DATA_DIR=/mnt/runs/data',
    *SHARED,
  ],
  'gcloud.sh': [
    '--backend=gcloud',
    '--accelerator=v5litepod-16',
    '--slices=2',
    '--zone=us-west4-a',
    '--spot',
    f'--setup={MOUNT}',
    '--env=TFDS_DATA_DIR=/mnt/runs/my data',
    *SHARED,
  ],
}


@pytest.mark.parametrize('name', CASES)
def test_a_dry_run_prints_what_would_be_used(name):
  code, printed, errors = ended('launch', '--dry_run', *CASES[name])
  assert code == 0, errors
  assert printed == (GOLDEN / name).read_text()
  if name.endswith('.sh'):
    subprocess.run(['bash', '-n', GOLDEN / name], check=True)
  else:
    assert yaml.safe_load(printed)


def test_the_manifest_has_only_fields_of_the_api():
  manifest = yaml.safe_load((GOLDEN / 'gke.yaml').read_text())
  jobset.check(manifest, jobset.JOBSET)
  del manifest['spec']['replicatedJobs'][0]['template']['spec']['template']
  with pytest.raises(AssertionError, match=r"replicatedJobs\[0\].template.spec lacks {'template'}"):
    jobset.check(manifest, jobset.JOBSET)
  manifest['spec']['failurePolicy']['maxRestart'] = 3
  with pytest.raises(AssertionError, match="has no field 'maxRestart'"):
    jobset.check(manifest, jobset.JOBSET)


def test_a_slice_has_a_pod_for_each_host():
  for topology, chips, pods in [('4x4', 4, 4), ('2x2', 4, 1), ('4x4x8', 4, 32), ('2x4', 8, 1)]:
    manifest = gke.manifest(START, gke.Settings('a', topology, 'i', 'runs', chips=chips))
    spec = manifest['spec']['replicatedJobs'][0]['template']['spec']
    assert spec['parallelism'] == spec['completions'] == pods


START = job.Job('digits', standins.WORDS, '/mnt/runs/x', (('SPACE', standins.SPACE),), restarts=1)


def run_text(text, folder, *codes, **variables):
  """Runs a script with stand-ins; returns its exit code."""
  env = os.environ | standins.environment(folder, *codes) | variables
  return subprocess.run(['bash', '-c', text], env=env, cwd=folder, check=False).returncode


def received(folder):
  """The words that `twofold` was given, and the variable SPACE."""
  [words] = standins.calls(folder, 'twofold')
  return words, (folder / 'space').read_text()


def test_words_survive_slurm(tmp_path):
  assert run_text(slurm.plan(START, slurm.Settings()).text, tmp_path, 0) == 0
  assert received(tmp_path) == ([*standins.WORDS, '--distributed=auto'], standins.SPACE)


@pytest.mark.parametrize(
  ('accelerator', 'nodes', 'distributed'),
  [('tpu-v6e-16', 1, 'auto'), ('H100:8', 2, '10.0.0.1:8476,1,2')],
)
def test_words_survive_skypilot(tmp_path, accelerator, nodes, distributed):
  task = yaml.safe_load(sky.plan(START, sky.Settings(accelerator, nodes)).text)
  (tmp_path / '.venv').symlink_to('.', target_is_directory=True)  # .venv/bin is bin
  peers = {'NODE_IPS': '10.0.0.1\n10.0.0.2', 'NODE_RANK': '1', 'NUM_NODES': '2'}
  peers = {f'SKYPILOT_{name}': value for name, value in peers.items()}
  assert run_text(task['run'], tmp_path, 0, **peers, **task['envs']) == 0
  assert received(tmp_path) == ([*standins.WORDS, f'--distributed={distributed}'], standins.SPACE)


def test_words_survive_kubernetes():
  """It replaces $(NAME) by a variable of the container, and reads $$ as $."""
  manifest = yaml.safe_load(gke.plan(START, gke.Settings('a', '4x4', 'image', 'runs')).text)
  pod = manifest['spec']['replicatedJobs'][0]['template']['spec']['template']['spec']
  [container] = pod['containers']
  expanded = lambda text: re.sub(r'\$\$|\$\(\w+\)', lambda m: m[0][:1] * (m[0] == '$$'), text)
  words = [expanded(word) for word in container['command']]
  assert words == ['twofold', *standins.WORDS, '--distributed=auto']
  assert [expanded(item['value']) for item in container['env']] == [standins.SPACE]


@pytest.mark.parametrize(
  ('code', 'before', 'again'), [(0, 0, 0), (75, 5, 1), (134, 0, 1), (134, 1, 0), (1, 1, 0)]
)
def test_slurm_queues_a_job_again(tmp_path, code, before, again):
  """After saving always, after a crash at most `restarts` times."""
  script = slurm.plan(START, slurm.Settings()).text
  job_id = {'SLURM_JOB_ID': '7', 'SLURM_RESTART_COUNT': str(before)}
  assert run_text(script, tmp_path, code, **job_id) == code
  assert standins.calls(tmp_path, 'scontrol') == [['requeue', '7']] * again


@pytest.mark.parametrize(
  ('name', 'command'),
  [
    ('sky_tpu.yaml', ['sky', 'jobs', 'launch', '--yes', '--detach-run']),
    ('slurm.sh', ['sbatch']),
    ('gke.yaml', ['kubectl', 'apply', '--filename']),
  ],
)
def test_a_launch_hands_the_file_over(tmp_path, name, command):
  code, printed, errors = ended('launch', *CASES[name], **standins.environment(tmp_path))
  assert code == 0, errors
  program, *words = command
  [call] = standins.calls(tmp_path, program)
  assert call[:-1] == words
  text = (tmp_path / 'file').read_text()
  assert (GOLDEN / name).read_text().startswith(text)
  follow = [line.removeprefix('next: ') for line in printed.splitlines()]
  assert follow and all(f'# {line}' in (GOLDEN / name).read_text() for line in follow)


@pytest.mark.parametrize(
  ('name', 'program'),
  [
    ('sky_tpu.yaml', 'sky'),
    ('slurm.sh', 'sbatch'),
    ('gke.yaml', 'kubectl'),
    ('gcloud.sh', 'gcloud'),
  ],
)
def test_a_missing_program_is_named(tmp_path, name, program):
  code, printed, errors = ended('launch', *CASES[name], PATH=str(tmp_path))
  backend = CASES[name][0]
  assert (code, printed) == (1, '')
  assert errors == (
    f"error: {backend} needs the program '{program}', which is not on the PATH: install it "
    '(docs/clusters.md), or add --dry_run to print what would be done\n'
  )


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    ([], '--backend is missing: give one of local, sky, slurm, gke, gcloud'),
    (['--backend=slurm', '--topology=4x4', *SHARED], '--topology is not a flag of --backend=slurm'),
    (['--backend=gke', '--topology=4x4', *SHARED], '--backend=gke needs --accelerator. sky: H100'),
    (['--backend=slurm', '--name=A b', *SHARED], '--name=A b: write a name of at most 40 small'),
    (['--backend=slurm', *SHARED, '--fresh'], '--fresh: with --backend=slurm the command may'),
    (['--backend=slurm', '--env=A b', *SHARED], '--env=A b: write NAME=VALUE'),
    (
      [*CASES['sky_tpu.yaml'][:2], '--', 'sample', '--workdir=gs://bucket/runs/x'],
      'sample needs --out with --backend=sky: the absolute path of a file in a folder that all',
    ),
    (
      ['--backend=gcloud', '--accelerator=v6e-4', '--zone=z', '--', *TRAIN, '--workdir=runs/x'],
      '--workdir=runs/x: with --backend=gcloud each worker would write to a folder of its own',
    ),
    (
      [*CASES['gke.yaml'], '--workdir=/mnt/other/x'],
      '--workdir=/mnt/other/x would be in each pod, and end with it: give a folder of the '
      '--claim, /mnt/runs/runs/x, or of a bucket, gs://BUCKET/runs/x',
    ),
  ],
)
def test_wrong_flags_are_refused(flags, message):
  assert message in refused('launch', *flags)


@pytest.mark.parametrize(
  ('words', 'message'),
  [
    ([], 'write the command after the flags: -- train'),
    (['trian'], "'trian' does not run on several workers; did you mean 'train'?"),
    ([*TRAIN, '--workdir=x', '--distributed=off'], '--distributed: leave it out'),
    ([*TRAIN], 'train needs --workdir: give a folder that all workers share'),
    ([*TRAIN, '--workdir=x', '--config.network.widht=3'], "did you mean 'network.width'"),
    (['train', '--config=nowhere.py', '--workdir=x'], 'nowhere.py'),
    (
      [*TRAIN, '--workdir=s3://b/x'],
      '--workdir=s3://b/x: must be a path on this machine, or gs://BUCKET/FOLDER',
    ),
  ],
)
def test_a_wrong_command_is_refused_before_anything_starts(words, message):
  with pytest.raises(ValueError, match=re.escape(message)):
    job.check(words)


@pytest.mark.parametrize(
  ('settings', 'message'),
  [
    (lambda: gke.Settings('a', '4by4', 'i', 'c'), '--topology=4by4: write the chips of a slice'),
    (
      lambda: gke.Settings('a', '3x3', 'i', 'c'),
      '--topology=3x3 has 9 chips, which hosts of',
    ),
    (lambda: sky.Settings('tpu-v6e-8', nodes=2), '--nodes=2: SkyPilot runs one slice'),
    (lambda: slurm.Settings(time='a day'), '--time=a day: write hours'),
    (lambda: slurm.Settings(sbatch=('account=x',)), '--sbatch=account=x: write an option'),
    (lambda: gcloud.Settings('H100:8', 'z'), '--accelerator=H100:8: no runtime is known'),
  ],
)
def test_wrong_settings_are_refused(settings, message):
  with pytest.raises(ValueError, match=re.escape(message)):
    settings()


@pytest.mark.parametrize('workdir', ['runs/x', '~/x', './x'])
def test_a_workdir_of_which_each_machine_has_its_own_is_refused(workdir):
  assert job.check([*TRAIN, f'--workdir={workdir}']) == workdir  # on a cluster it may be shared
  with pytest.raises(ValueError, match='each worker would write to a folder of its own'):
    job.check_shared(workdir, 'sky')


def test_the_working_tree_must_be_a_clone(tmp_path, monkeypatch):
  job.check_tree()
  monkeypatch.chdir(tmp_path)
  with pytest.raises(ValueError, match=r'has no setup.py: start launch in a clone'):
    job.check_tree()


@pytest.mark.parametrize(
  ('workdir', 'name'),
  [
    ('/mnt/runs/Digits_1/', 'digits-1'),
    ('runs/2x2', 'run-2x2'),
    ('/a/' + 'long-' * 9, 'long-long-long-long-long-long-long-long'),
    ('.', 'run'),
  ],
)
def test_a_job_is_named_after_its_workdir(workdir, name):
  assert job.name_of(workdir) == name and job.NAME.fullmatch(name)


def test_a_run_in_a_bucket_is_evaluated_without_a_claim():
  words = 'evaluate', '--workdir=gs://bucket/runs/x', '--metrics=bits_per_dim'
  workdir = job.check(words)
  job.check_shared(workdir, 'gke')
  assert job.name_of(workdir, 'evaluate') == 'evaluate-x'
  manifest = gke.manifest(job.Job('x', words, workdir), gke.Settings('a', '4x4', 'image'))
  jobset.check(manifest, jobset.JOBSET)
  assert 'volumes' not in str(manifest) and 'volumeMounts' not in str(manifest)
  with pytest.raises(ValueError, match='give a folder of the --claim, /mnt/CLAIM/runs/x, or of a'):
    gke.plan(job.Job('x', words, '/mnt/runs/x'), gke.Settings('a', '4x4', 'image'))
