"""Google Kubernetes Engine: a JobSet with one job per slice and one pod per host.

JobSet restarts all pods together. A pod that was stopped after saving (exit code 75) or evicted
does not count as a failure. The rules need JobSet 0.6 or newer.
https://jobset.sigs.k8s.io/docs/tasks/tpu_multislice/
"""

import dataclasses
import math
import re
from typing import Any

from common import buckets
from experiments.launch import documents, job
from experiments.startup.signals import STOPPED

NEEDS = ('kubectl',)
POOL = 'cloud.google.com/gke-nodepool'
SPOT = 'cloud.google.com/gke-spot'
GRACE = 120  # seconds between SIGTERM and SIGKILL
KEEP = 12 * 3600  # seconds for which a finished JobSet and its logs stay
TOPOLOGY = re.compile(r'\d+x\d+(x\d+)?')
CONTAINER, VOLUME = 'twofold', 'runs'
FIRST = 'jobset.sigs.k8s.io/job-index=0,batch.kubernetes.io/job-completion-index=0'  # a pod


@dataclasses.dataclass(frozen=True)
class Settings:
  """What the JobSet asks the cluster for.

  Attributes:
    accelerator: GKE's name: tpu-v6e-slice, tpu-v5-lite-podslice, tpu-v5p-slice.
    topology: the chips of one slice: 4x4, 4x4x4.
    image: a container image with twofold and its extra `tpu`.
    claim: a persistent volume claim that many nodes may write to; pods have it at /mnt/CLAIM. '':
      the run is in a bucket.
    slices: number of slices, each a node pool of its own.
    chips: number of chips of one host.
    spot: whether the nodes may be preempted.
    queue: the local queue of Kueue, where a cluster has one.
  """

  accelerator: str
  topology: str
  image: str
  claim: str = ''
  slices: int = 1
  chips: int = 4
  spot: bool = False
  queue: str = ''

  def __post_init__(self):
    if not TOPOLOGY.fullmatch(self.topology):
      raise ValueError(f'--topology={self.topology}: write the chips of a slice, such as 4x4')
    if self.total % self.chips:
      raise ValueError(
        f'--topology={self.topology} has {self.total} chips, which hosts of --chips={self.chips} '
        'cannot share evenly'
      )

  @property
  def total(self) -> int:
    """The chips of one slice."""
    return math.prod(map(int, self.topology.split('x')))


def plan(start: job.Job, settings: Settings) -> job.Plan:
  """The manifest, and `kubectl apply`.

  Raises:
    ValueError: the workdir is not on the claim or in a bucket, so it would end with its pod.
  """
  folder = f'/mnt/{settings.claim or "CLAIM"}'
  mounted = settings.claim and start.workdir.startswith(f'{folder}/')
  if not mounted and not start.workdir.startswith(buckets.SCHEME):
    raise ValueError(
      f'--workdir={start.workdir} would be in each pod, and end with it: give a folder of the '
      f'--claim, {folder}/runs/{start.name}, or of a bucket, gs://BUCKET/runs/{start.name}'
    )
  pods = f'jobset.sigs.k8s.io/jobset-name={start.name}'
  return job.Plan(
    documents.to_yaml(manifest(start, settings)),
    '.yaml',
    ('kubectl', 'apply', '--filename'),
    (
      f'kubectl get pods --selector={pods}',
      f'kubectl logs --follow --selector={pods},{FIRST}',
      f'kubectl delete jobset {start.name}',
    ),
  )


def manifest(start: job.Job, settings: Settings) -> dict[str, Any]:
  """The JobSet, of API version jobset.x-k8s.io/v1alpha2."""
  metadata: dict[str, Any] = {'name': start.name}
  if settings.queue:
    metadata['labels'] = {'kueue.x-k8s.io/queue-name': settings.queue}
  # Each slice gets a node pool to itself.
  metadata['annotations'] = {'alpha.jobset.sigs.k8s.io/exclusive-topology': POOL}
  hosts = settings.total // settings.chips
  slices = {
    'parallelism': hosts,
    'completions': hosts,
    'backoffLimit': 0,  # one pod that fails, fails its slice
    'podFailurePolicy': {
      'rules': [
        {
          'action': 'FailJob',
          'onExitCodes': {
            'containerName': CONTAINER,
            'operator': 'In',
            'values': [STOPPED],
          },
        },
        {'action': 'FailJob', 'onPodConditions': [{'type': 'DisruptionTarget', 'status': 'True'}]},
      ]
    },
    'template': {'spec': _pod(start, settings)},
  }
  # The reason PodFailurePolicy says that one of the two rules above applied: a preemption.
  preempted = {
    'name': 'preempted',
    'action': 'RestartJobSetAndIgnoreMaxRestarts',
    'onJobFailureReasons': ['PodFailurePolicy'],
  }
  return {
    'apiVersion': 'jobset.x-k8s.io/v1alpha2',
    'kind': 'JobSet',
    'metadata': metadata,
    'spec': {
      'ttlSecondsAfterFinished': KEEP,
      'failurePolicy': {'maxRestarts': start.restarts, 'rules': [preempted]},
      'replicatedJobs': [
        {'name': 'slice', 'replicas': settings.slices, 'template': {'spec': slices}}
      ],
    },
  }


def _pod(start: job.Job, settings: Settings) -> dict[str, Any]:
  """The pod of one host."""
  where = {
    'cloud.google.com/gke-tpu-accelerator': settings.accelerator,
    'cloud.google.com/gke-tpu-topology': settings.topology,
  }
  pod: dict[str, Any] = {
    'restartPolicy': 'Never',
    'hostNetwork': True,
    'dnsPolicy': 'ClusterFirstWithHostNet',
    'terminationGracePeriodSeconds': GRACE,
    'nodeSelector': where | ({SPOT: 'true'} if settings.spot else {}),
  }
  if settings.spot:
    pod['tolerations'] = [
      {'key': SPOT, 'operator': 'Equal', 'value': 'true', 'effect': 'NoSchedule'}
    ]
  container: dict[str, Any] = {
    'name': CONTAINER,
    'image': settings.image,
    # A list, not a line of shell: the program is process 1, and receives SIGTERM itself.
    'command': [literal(word) for word in start.command()],
  }
  if start.env:
    container['env'] = [{'name': name, 'value': literal(value)} for name, value in start.env]
  container['securityContext'] = {'privileged': True}  # for the TPU's devices
  container['resources'] = {'limits': {'google.com/tpu': settings.chips}}
  if not settings.claim:
    return pod | {'containers': [container]}
  container['volumeMounts'] = [{'name': VOLUME, 'mountPath': f'/mnt/{settings.claim}'}]
  volume = {'name': VOLUME, 'persistentVolumeClaim': {'claimName': settings.claim}}
  return pod | {'containers': [container], 'volumes': [volume]}


def literal(word: str) -> str:
  """A word that Kubernetes leaves as it is: it would replace $(NAME), and reads $$ as $."""
  return word.replace('$', '$$')
