"""Folders in a bucket: an object store on the loopback device, not a folder that plays one."""

import importlib.util
import os

import pytest

from common import buckets, files
from common.buckets import Spool
from common.checkpoints import storage
from common.files import to_path
from common.reporting.writers import METRICS_FILE, Writer, read
from tests.gcs import BUCKET, READ_ONLY


@pytest.fixture
def folder(bucket_server, request):
  """A folder of its own for each test."""
  return to_path(f'gs://{BUCKET}/{request.node.name}')


def put(folder, **contents):
  for name, content in contents.items():
    (folder / name.replace('__', '/')).write_bytes(content)


def test_what_a_path_may_be(bucket_server, monkeypatch):
  for url in ('gs://', f'gs://{BUCKET}', f'gs://{BUCKET}/'):
    with pytest.raises(ValueError, match=r'must name a bucket and a folder in it: gs://BUCKET'):
      to_path(url)
  with pytest.raises(ValueError, match='or gs://BUCKET/FOLDER, not another URL'):
    to_path('s3://bucket/runs')
  assert str(to_path(to_path(f'gs://{BUCKET}/a//b/'))) == f'gs://{BUCKET}/a/b'
  assert not files.in_bucket(to_path('~/runs')) and str(to_path('~')) == os.path.expanduser('~')
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(ValueError, match=r"^needs gcsfs: pip install 'twofold\[gcs\]'"):
    files.check_writable(to_path(f'gs://{BUCKET}/runs'))


def test_a_bucket_that_cannot_be_written(folder, bucket_server):
  files.check_writable(folder)
  assert not bucket_server.names(folder.name)  # nothing is left
  with pytest.raises(ValueError, match=r'^cannot be written: there is no bucket gs://none, or'):
    files.check_writable(to_path('gs://none/runs'))
  with pytest.raises(ValueError, match=f'this account has no access to gs://{READ_ONLY}: log in'):
    files.check_writable(to_path(f'gs://{READ_ONLY}/runs'))
  with pytest.raises(OSError, match='gs://none/runs cannot be read: there is no bucket gs://none'):
    files.exists(to_path('gs://none/runs'))


def test_folders_are_read_renamed_and_removed(folder, bucket_server):
  assert files.children(folder) == [] and not files.exists(folder)
  put(folder, run__a=b'1', run__state__b=b'2', run__commit=b'', other=b'3')
  files.atomic_write(folder / 'run' / 'a', 'new')
  assert [path.name for path in files.children(folder)] == ['other', 'run']
  files.rename_folder(folder / 'run', folder / 'run.1')
  assert (folder / 'run.1' / 'a').read_text() == 'new'
  files.remove_folder(folder / 'run.1')
  assert bucket_server.names(f'{folder.name}/') == [f'{folder.name}/other']


def test_only_committed_steps_are_finished_and_removal_begins_with_the_mark(folder, bucket_server):
  for step in (8, 16, 24):
    put(folder, **{f'{step}__state__a': b'1', f'{step}__record': b'2'})
  for step in (8, 16):
    (folder / f'{step}' / storage.COMMITTED).write_bytes(b'')
  put(folder, **{'damaged-4__record': b'3'})
  assert storage.finished_steps(folder) == [8, 16]
  assert [path.name for path in storage.unfinished(folder)] == ['24']
  bucket_server.deletes.clear()
  storage.remove(folder / '8')
  assert bucket_server.deletes[0] == f'{folder.name}/8/{storage.COMMITTED}'
  assert storage.finished_steps(folder) == [16] and not (folder / '8').exists()


def test_metrics_are_uploaded_whole_and_another_process_is_noticed(folder, bucket_server):
  name = f'{folder.name}/{METRICS_FILE}'
  with Writer(folder, tensorboard=False) as writer:
    before = bucket_server.puts.count(name)
    for step in (1, 2, 3):
      writer.scalars(step, {'loss': step})
    assert bucket_server.puts.count(name) == before  # not yet
    writer.flush()
    writer.flush()
    assert bucket_server.puts.count(name) == before + 1
    writer.scalars(4, {'loss': 4})
  assert [row['step'] for row in read(folder)] == [1, 2, 3, 4]
  first = Writer(folder, step=3, tensorboard=False)
  with Writer(folder, step=2, tensorboard=False) as second:  # a run that starts there meanwhile
    second.scalars(3, {'loss': 5})
  first.scalars(4, {'loss': 4})
  with pytest.raises(FileNotFoundError, match='was removed or replaced while the run was writing'):
    first.close()
  assert [(row['step'], row['loss']) for row in read(folder)] == [(1, 1), (2, 2), (3, 5)]


def test_an_upload_whose_answer_was_lost_is_not_taken_for_another_process(folder):
  spool = Spool(folder)
  spool.fetch('a')
  (spool.folder / 'a').write_text('1')
  (folder / 'a').write_text('1')  # the attempt of which nothing was heard
  spool.upload()
  (spool.folder / 'a').write_text('12')
  spool.close()
  assert (folder / 'a').read_text() == '12' and not spool.folder.exists()


def test_a_copy_on_this_machine_is_made_once_and_again_once_the_objects_change(
  folder, bucket_server, monkeypatch, tmp_path
):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  put(folder, info=b'1', shards__a=b'22')
  copy = buckets.local_copy(folder)
  assert copy == tmp_path / 'twofold' / 'buckets' / BUCKET / folder.name
  assert (copy / 'shards' / 'a').read_bytes() == b'22'
  (copy / 'mark').touch()
  assert buckets.local_copy(folder) == copy and (copy / 'mark').exists()  # not copied again
  put(folder, shards__a=b'33')
  assert (buckets.local_copy(folder) / 'shards' / 'a').read_bytes() == b'33'
  assert not (copy / 'mark').exists()
  put(folder, shards__a=b'44')
  bucket_server.damaged = f'{folder.name}/shards/a'
  with pytest.raises(OSError, match='shards/a arrived with other content: start again'):
    buckets.local_copy(folder)
  bucket_server.damaged = None
  assert (buckets.local_copy(folder) / 'shards' / 'a').read_bytes() == b'44'
