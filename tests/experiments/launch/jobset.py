"""The part of JobSet's and Kubernetes' API that our manifests use, written from their pages.

jobset.x-k8s.io/v1alpha2 of JobSet 0.6 and later (https://jobset.sigs.k8s.io/docs/reference/),
batch/v1 and core/v1 (https://kubernetes.io/docs/reference/kubernetes-api/). A field that is not
here is refused, because a cluster might ignore a misspelt one.
"""

import re

# A type, a pattern of text, a list of one kind, a mapping of fields ('name!' is required), or a
# set of choices. {str: kind}: any key.
NAME = re.compile(r'[a-z0-9]([-a-z0-9]*[a-z0-9])?')
TEXTS = {str: str}
CONTAINER = {
  'name!': NAME,
  'image': str,
  'command': [str],
  'env': [{'name!': str, 'value': str}],
  'securityContext': {'privileged': bool},
  'resources': {'limits': {str: int}},
  'volumeMounts': [{'name!': str, 'mountPath!': str, 'readOnly': bool}],
}
TOLERATION = {
  'key': str,
  'operator': {'Equal', 'Exists'},
  'value': str,
  'effect': {'NoSchedule', 'NoExecute', 'PreferNoSchedule'},
}
POD = {
  'containers!': [CONTAINER],
  'restartPolicy': {'Never', 'OnFailure'},
  'hostNetwork': bool,
  'dnsPolicy': {'ClusterFirst', 'ClusterFirstWithHostNet', 'Default', 'None'},
  'terminationGracePeriodSeconds': int,
  'nodeSelector': TEXTS,
  'tolerations': [TOLERATION],
  'volumes': [{'name!': NAME, 'persistentVolumeClaim': {'claimName!': NAME}}],
}
POD_RULE = {
  'action!': {'FailJob', 'FailIndex', 'Ignore', 'Count'},
  'onExitCodes': {'containerName': str, 'operator!': {'In', 'NotIn'}, 'values!': [int]},
  'onPodConditions': [{'type!': str, 'status': str}],
}
JOB = {
  'parallelism': int,
  'completions': int,
  'backoffLimit': int,
  'podFailurePolicy': {'rules!': [POD_RULE]},
  'template!': {'spec!': POD},
}
RULE = {
  'name!': re.compile(r'[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?'),
  'action!': {'FailJobSet', 'RestartJobSet', 'RestartJobSetAndIgnoreMaxRestarts'},
  'onJobFailureReasons': [
    {
      'BackoffLimitExceeded',
      'DeadlineExceeded',
      'FailedIndexes',
      'MaxFailedIndexesExceeded',
      'PodFailurePolicy',
    }
  ],
  'targetReplicatedJobs': [str],
}
JOBSET = {
  'apiVersion!': {'jobset.x-k8s.io/v1alpha2'},
  'kind!': {'JobSet'},
  'metadata!': {'name!': NAME, 'labels': TEXTS, 'annotations': TEXTS},
  'spec!': {
    'ttlSecondsAfterFinished': int,
    'failurePolicy': {'maxRestarts': int, 'rules': [RULE]},
    'replicatedJobs!': [{'name!': NAME, 'replicas': int, 'template!': {'spec!': JOB}}],
  },
}


def check(value, kind, where='manifest'):
  """Raises AssertionError unless the value is of a kind."""
  if isinstance(kind, type):
    assert type(value) is kind, f'{where} must be {kind.__name__}: {value!r}'
  elif isinstance(kind, re.Pattern):
    assert kind.fullmatch(value) and len(value) <= 63, f'{where}: {value!r}'
  elif isinstance(kind, set):
    assert value in kind, f'{where} must be one of {kind}: {value!r}'
  elif isinstance(kind, list):
    assert isinstance(value, list), f'{where} must be a list'
    for index, part in enumerate(value):
      check(part, kind[0], f'{where}[{index}]')
  else:
    assert isinstance(value, dict), f'{where} must be a mapping'
    fields = {name.rstrip('!') if name is not str else name: sub for name, sub in kind.items()}
    required = {name[:-1] for name in kind if name is not str and name.endswith('!')}
    assert required <= value.keys(), f'{where} lacks {required - value.keys()}'
    for name, part in value.items():
      sub = fields.get(name, fields.get(str))
      assert sub is not None, f'{where} has no field {name!r}'
      check(part, sub, f'{where}.{name}')
