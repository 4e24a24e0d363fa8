"""User data: the few lines with which a machine ends itself in time, fetches the agent program and becomes it.

A pure function of the lease, so that a repeated request is the same request. It holds no secret, asks nothing but the
machine's own metadata and the storage, and needs Python 3.10 with its standard library. AWS_ENDPOINT_URL and
AWS_EC2_METADATA_SERVICE_ENDPOINT mean to it what they mean to boto3.
"""

import re

from gitops_ml.agent.objects import Lease

MAX_BYTES = 3 * 1024


def user_data(lease: Lease, storage_uri: str, region: str) -> str:
    """Return the script that starts the attempt.

    Args:
        lease: what may be started.
        storage_uri: ``s3://bucket/prefix``, as ``gitops-ml.yaml`` says it.
        region: of the machine. A bucket in another one is found by what S3 answers.

    Raises:
        ValueError: the storage is no bucket, or its name is too long for the little that a machine is told.
    """
    if not re.fullmatch(r"s3://[a-z0-9.-]+(/[^?#]*)?(\?owner=\d+)?", storage_uri):
        raise ValueError(f"{storage_uri} is no s3://bucket/prefix")
    values = (storage_uri, region, lease.agent, lease.key, str(lease.number))
    script = _SCRIPT.replace("@MINUTES@", str(int(lease.lifetime_min)))
    script = script.replace("@VALUES@", ", ".join(ascii(value) for value in values))
    if len(script) >= MAX_BYTES:
        raise ValueError(f"{storage_uri} is too long: a machine is told at most {MAX_BYTES} bytes, not {len(script)}")
    return script


# The first line is the one that must not fail: relative minutes, so that a wrong clock does not matter, and neither
# permission nor network. Whatever happens after it, the last line is reached, or the first one acts. What the
# services answer to a refused request corrects region and time for the next. (int.bit_count came with Python 3.10.)
_SCRIPT = r"""#!/bin/sh
shutdown -h +@MINUTES@
for p in python3 python3.12 python3.11; do
"$p" -c int.bit_count && break
done
"$p" - <<'END'
import email.utils, hashlib, hmac, json, os, sys, tempfile, time
from urllib import parse, request
began = time.monotonic()
STORAGE, region, AGENT, KEY, ATTEMPT = told = @VALUES@
skew, env = 0, os.environ
at = parse.urlsplit(STORAGE)
imds = env.get("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://169.254.169.254").rstrip("/") + "/latest/"
direct = request.build_opener(request.ProxyHandler({}))
sha = lambda b: hashlib.sha256(b).hexdigest()
def meta(path, k, v, **how):
 r = request.Request(imds + path, None, {"X-aws-ec2-metadata-token" + k: v}, **how)
 return direct.open(r, timeout=5).read().decode()
def s3(method, name, body=b""):
 get = lambda x: meta("meta-data/iam/security-credentials/" + x, "", token)
 token = meta("api/token", "-ttl-seconds", "300", method="PUT")
 c = json.loads(get(get("").split()[0]))
 base = env.get("AWS_ENDPOINT_URL") or f"https://s3.{region}.amazonaws.com" + ".cn" * (region[:3] == "cn-")
 path = "/".join(filter(None, (at.netloc, at.path.strip("/"), name)))
 url = parse.urlsplit(base.rstrip("/") + parse.quote("/" + path))
 now = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(time.time() + skew))
 h = {"content-type": "-", "host": url.netloc, "x-amz-content-sha256": sha(body), "x-amz-date": now}
 h["x-amz-security-token"] = c["Token"]
 if at.query:
  h["x-amz-expected-bucket-owner"] = at.query[6:]
 n = ";".join(sorted(h))
 q = "\n".join((method, url.path, "", *(f"{k}:{h[k]}" for k in sorted(h)), "", n, sha(body)))
 s = f"{now[:8]}/{region}/s3/aws4_request"
 alg = "AWS4-HMAC-SHA256"
 key = b"AWS4" + c["SecretAccessKey"].encode()
 for part in *s.split("/"), "\n".join((alg, now, s, sha(q.encode()))):
  key = hmac.digest(key, part.encode(), "sha256")
 h["Authorization"] = f"{alg} Credential={c['AccessKeyId']}/{s},SignedHeaders={n},Signature={key.hex()}"
 return request.urlopen(request.Request(url.geturl(), body or None, h, method=method), timeout=60).read()
def ask(*what):
 global region, skew
 for pause in 0, 1, 2, 4, 8, 15, 30, 60, None:
  try:
   return s3(*what)
  except Exception as e:
   if pause is None:
    raise
   h = getattr(e, "headers", {})
   region = h.get("x-amz-bucket-region", region)
   if d := h.get("Date"):
    skew = email.utils.parsedate_to_datetime(d).timestamp() - time.time()
   time.sleep(pause)
try:
 agent = ask("GET", f"agents/{AGENT}.zip")
 if sha(agent) != AGENT:
  raise ValueError("agent: another digest")
 fd, file = tempfile.mkstemp()
 open(fd, "wb").write(agent)
 os.execv(sys.executable, [sys.executable, file, *told, str(began)])
except BaseException as e:
 ask("PUT", f"jobs/{KEY}/{ATTEMPT}/boot.json", json.dumps({"reason": repr(e) + getattr(e, "url", "")}).encode())
END
shutdown -h now
"""
