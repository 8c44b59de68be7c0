"""Cloud Storage on the loopback device: the part of its JSON API that gcsfs and TensorStore use.

An object store and not a file system: objects are put whole, nothing is appended to or renamed, and
folders do not exist. https://cloud.google.com/storage/docs/json_api
"""

import base64
import contextlib
import datetime
import hashlib
import http.server
import json
import re
import sys
import threading
import urllib.parse

BUCKET, READ_ONLY = 'bucket', 'read-only'  # the buckets that there are
TOKEN = 'token'  # of those who may use them
PART = re.compile(rb'DELETE /storage/v1/b/([^/]+)/o/([^ ?]+)')  # of a batch of requests
API = re.compile(
  r'((?P<upload>/upload)|/download)?/storage/v1/b/(?P<bucket>[^/]+)(/o(/(?P<name>[^/]+)'
  r'(/(?P<verb>moveTo|rewriteTo)/(b/[^/]+/)?o/(?P<target>[^/]+))?)?)?'
)


class Refused(Exception):
  """A response other than success: its status, and its reason."""


class Server(http.server.ThreadingHTTPServer):
  """The buckets: {name of an object: (generation, content)}."""

  daemon_threads = True

  def __init__(self):
    super().__init__(('127.0.0.1', 0), Handler)
    self.buckets = {BUCKET: {}, READ_ONLY: {}}
    self.lock = threading.Lock()
    self.generation = 0
    self.uploads = {}  # unfinished ones: {id: (bucket, name, condition, content so far)}
    self.puts, self.deletes = [], []  # the names of objects, in order
    self.damaged = None  # the name of an object that arrives with another content

  def handle_error(self, request, client_address):
    if not isinstance(sys.exc_info()[1], ConnectionError):  # of a client that was killed
      super().handle_error(request, client_address)

  @property
  def environment(self):
    """The variables by which gcsfs and TensorStore use this server."""
    address = f'http://127.0.0.1:{self.server_port}'
    return {
      'STORAGE_EMULATOR_HOST': address,
      'TENSORSTORE_GCS_HTTP_URL': address,
      'GOOGLE_AUTH_TOKEN_FOR_TESTING': TOKEN,
      'FSSPEC_GCS': json.dumps({'token': 'anon'}),
    }

  def names(self, prefix=''):
    with self.lock:
      return sorted(name for name in self.buckets[BUCKET] if name.startswith(prefix))

  def read(self, name):
    return self.buckets[BUCKET][name][1]

  def put(self, bucket, name, content, condition):
    with self.lock:
      objects = self.objects(bucket)
      if bucket == READ_ONLY:
        raise Refused(403, 'the caller does not have storage.objects.create access')
      if condition is not None and int(condition) != objects.get(name, (0,))[0]:
        raise Refused(412, 'a condition of the request did not hold')
      self.generation += 1
      objects[name] = self.generation, content
      self.puts.append(name)
    return self.metadata(bucket, name)

  def get(self, bucket, name):
    objects = self.objects(bucket)
    if name not in objects:
      raise Refused(404, f'no such object: {bucket}/{name}')
    return objects[name]

  def delete(self, bucket, name):
    with self.lock:
      self.get(bucket, name)
      del self.objects(bucket)[name]
      self.deletes.append(name)

  def objects(self, bucket):
    if bucket not in self.buckets:
      raise Refused(404, 'the specified bucket does not exist')
    return self.buckets[bucket]

  def metadata(self, bucket, name):
    generation, content = self.get(bucket, name)
    now = datetime.datetime.fromtimestamp(generation, datetime.UTC).strftime('%Y-%m-%dT%H:%M:%SZ')
    return {
      'kind': 'storage#object',
      'bucket': bucket,
      'name': name,
      'size': str(len(content)),
      'generation': str(generation),
      'md5Hash': base64.b64encode(hashlib.md5(content).digest()).decode(),
      'timeCreated': now,
      'updated': now,
    }

  def list(self, bucket, prefix, delimiter):
    """Objects, and with a delimiter the folders, whose names begin with the prefix."""
    items, folders = [], set()
    with self.lock:
      for name in sorted(self.objects(bucket)):
        if name.startswith(prefix):
          inside, found, _ = name[len(prefix) :].partition(delimiter) if delimiter else ('', '', '')
          if found:
            folders.add(prefix + inside + delimiter)
          else:
            items.append(self.metadata(bucket, name))
    return {'kind': 'storage#objects', 'items': items, 'prefixes': sorted(folders)}


class Handler(http.server.BaseHTTPRequestHandler):
  """Answers one request after the other of a connection."""

  protocol_version = 'HTTP/1.1'
  wbufsize = 2**16  # a response in one piece: pieces would wait for each other

  def log_message(self, *_):
    pass

  def answer(self):
    body = self.rfile.read(int(self.headers.get('Content-Length') or 0))
    status, headers = 200, {'Content-Type': 'application/json'}
    try:
      found = self.found(urllib.parse.urlsplit(self.path), body)
    except Refused as refused:
      status, reason = refused.args
      found = {'error': {'code': status, 'message': reason}}
    if isinstance(found, tuple):  # the content of an object
      generation, content = found
      headers['X-Goog-Generation'] = generation
      asked = re.fullmatch(r'bytes=(\d+)-(\d*)', self.headers.get('Range', ''))
      if asked and content:
        status, first, last = 206, int(asked[1]), int(asked[2] or len(content) - 1)
        headers['Content-Range'] = f'bytes {first}-{last}/{len(content)}'
        content = content[first : last + 1]
    elif isinstance(found, bytes):  # a batch
      headers['Content-Type'], content = 'multipart/mixed; boundary=part', found
    elif isinstance(found, str):  # where to upload to
      headers['Location'], content = found, b''
    elif isinstance(found, range):  # an upload goes on
      status, headers['Range'], content = 308, f'bytes=0-{len(found) - 1}', b''
    else:
      content = b'' if found is None else json.dumps(found).encode()
    self.send_response(status)
    for name, value in (headers | {'Content-Length': len(content)}).items():
      self.send_header(name, str(value))
    self.end_headers()
    self.wfile.write(content)

  do_GET = do_POST = do_DELETE = answer

  def found(self, url, body):
    """What a request gets: JSON, the content of an object, or nothing."""
    server, given = self.server, dict(urllib.parse.parse_qsl(url.query))
    if url.path.startswith('/batch'):
      for bucket, name in PART.findall(body):
        server.delete(bucket.decode(), urllib.parse.unquote(name.decode()))
      return b''.join(b'--part\r\n\r\nHTTP/1.1 204\r\n' for _ in PART.findall(body)) + b'--part--'
    if not (match := API.fullmatch(url.path)):
      raise Refused(404, f'not part of this server: {url.path}')
    bucket, name, target = (match[part] for part in ('bucket', 'name', 'target'))
    name, target = urllib.parse.unquote(name or ''), urllib.parse.unquote(target or '')
    if match['upload']:
      return self.upload(bucket, given, body)
    if self.command == 'DELETE':
      return server.delete(bucket, name)
    if match['verb']:
      put = server.put(bucket, target, server.get(bucket, name)[1], None)
      if match['verb'] == 'moveTo':
        server.delete(bucket, name)
      return put | {'done': True, 'resource': put}
    if not name:
      if '/o' not in url.path:
        server.objects(bucket)
        return {'kind': 'storage#bucket', 'name': bucket}
      return server.list(bucket, given.get('prefix', ''), given.get('delimiter', ''))
    if 'alt' not in given:
      return server.metadata(bucket, name)
    generation, content = server.get(bucket, name)
    return generation, bytes(len(content)) if name == server.damaged else content

  def upload(self, bucket, given, body):
    """A new object, from one request or from several."""
    server, name, condition = self.server, given.get('name'), given.get('ifGenerationMatch')
    if given['uploadType'] == 'multipart':
      _, described, body = self.parts(body)
      name = json.loads(described)['name']
    elif given['uploadType'] == 'resumable':
      if 'upload_id' not in given:
        server.objects(bucket)
        number = str(len(server.uploads))
        server.uploads[number] = bucket, name, condition, b''
        return f'{server.environment["STORAGE_EMULATOR_HOST"]}{self.path}&upload_id={number}'
      bucket, name, condition, before = server.uploads[given['upload_id']]
      body = before + body
      if self.headers['Content-Range'].endswith('/*'):
        server.uploads[given['upload_id']] = bucket, name, condition, body
        return range(len(body))
    return server.put(bucket, name, body, condition)

  def parts(self, body):
    """The parts of a body of several parts, without their headers."""
    boundary = re.search(r'boundary="?([^"]+)"?', self.headers['Content-Type'])[1].encode()
    texts = body.split(b'--' + boundary)[:-1]
    return [text.partition(b'\n\n')[2][:-1] for text in texts]


@contextlib.contextmanager
def serving():
  """A server, until the block ends."""
  with Server() as server:
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
