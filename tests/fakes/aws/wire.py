"""What a request asks for, read as the service reads it: by botocore's models."""

import dataclasses
import functools
import hashlib
import hmac
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, parse_qsl, quote, unquote
from xml.sax.saxutils import escape

import botocore.session
from botocore.validate import ParamValidator

SKEW_S = 15 * 60
"""How far a signature's time may be off."""

_TARGETS = {"AmazonSSM": "ssm", "AWSPriceListService": "pricing", "ServiceQuotasV20190624": "service-quotas"}


@dataclasses.dataclass(kw_only=True)
class Request:
    """One request; ``parameters`` are named as boto3 names them."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes
    service: str = ""
    region: str = "us-east-1"
    action: str = ""
    parameters: dict[str, Any] = dataclasses.field(default_factory=dict)
    problems: list[str] = dataclasses.field(default_factory=list)
    """Against the model."""

    @property
    def signature(self) -> re.Match[str] | None:
        return re.match(
            r"AWS4-HMAC-SHA256 Credential=(?P<key>[^/]+)/(?P<scope>(?P<day>\d{8})/(?P<region>[^/]+)/(?P<service>[^/]+)"
            r"/aws4_request), ?SignedHeaders=(?P<headers>[^,]+), ?Signature=(?P<signature>[0-9a-f]{64})$",
            self.headers.get("authorization", ""),
        )


class RefusedError(Exception):
    """An answer that is an error."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(code)
        self.code = code
        self.message = message
        self.status = status


def read(method: str, path: str, query: str, headers: Mapping[str, str], body: bytes) -> Request:
    """Return the request with its service, action and parameters found out."""
    request = Request(method=method, path=path, query=query, headers=headers, body=body)
    signed = request.signature
    if signed:
        request.service, request.region = signed["service"].replace("servicequotas", "service-quotas"), signed["region"]
    target = headers.get("x-amz-target", "")
    if target:
        prefix, _, request.action = target.partition(".")
        request.service = _TARGETS.get(prefix, request.service)
        request.parameters = json.loads(body or b"{}")
        _validate(request)
    elif headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        fields = {name: values[0] for name, values in parse_qs(body.decode(), keep_blank_values=True).items()}
        request.action = fields.pop("Action", "")
        fields.pop("Version", None)
        request.service = request.service or "sts"
        _from_form(request, fields)
    else:
        request.service = request.service or "s3"
        _from_rest(request)
    return request


@functools.cache
def _model(service: str) -> Any:
    return botocore.session.Session().get_service_model(service)


def _from_form(request: Request, fields: dict[str, str]) -> None:
    try:
        shape = _model(request.service).operation_model(request.action).input_shape
    except Exception as error:  # noqa: BLE001 no such operation: a finding
        request.problems.append(f"{request.service} {request.action}: {error!r}")
        return
    used: set[str] = set()
    flat = request.service == "ec2"
    request.parameters = _value(shape, "", fields, used, flat=flat) if shape else {}
    request.problems += [f"{request.action}: no parameter is called {name}" for name in sorted(set(fields) - used)]
    _validate(request, shape)


def _validate(request: Request, shape: Any = None) -> None:
    try:
        shape = shape or _model(request.service).operation_model(request.action).input_shape
    except Exception as error:  # noqa: BLE001
        request.problems.append(f"{request.service} {request.action}: {error!r}")
        return
    if shape is not None:
        report = ParamValidator().validate(request.parameters, shape)
        if report.has_errors():
            request.problems.append(f"{request.action}: {report.generate_report()}")


def _value(shape: Any, prefix: str, fields: dict[str, str], used: set[str], *, flat: bool) -> Any:
    if shape.type_name == "structure":
        found = {}
        for name, member in shape.members.items():
            at = f"{prefix}.{_wire_name(name, member, flat=flat)}" if prefix else _wire_name(name, member, flat=flat)
            if any(field == at or field.startswith(f"{at}.") for field in fields):
                found[name] = _value(member, at, fields, used, flat=flat)
        return found
    if shape.type_name == "list":
        at = prefix if flat or shape.serialization.get("flattened") else f"{prefix}.member"
        numbers = sorted({int(m[1]) for field in fields if (m := re.match(rf"{re.escape(at)}\.(\d+)(\.|$)", field))})
        return [_value(shape.member, f"{at}.{number}", fields, used, flat=flat) for number in numbers]
    used.add(prefix)
    text = fields.get(prefix, "")
    if shape.type_name in ("integer", "long"):
        return int(text)
    if shape.type_name == "boolean":
        return text == "true"
    if shape.type_name in ("float", "double"):
        return float(text)
    if shape.type_name == "timestamp":
        return datetime.fromisoformat(text)
    return text


def _wire_name(name: str, member: Any, *, flat: bool) -> str:
    if not flat:
        return member.serialization.get("name", name)
    if "queryName" in member.serialization:
        return member.serialization["queryName"]
    wire = member.serialization.get("name", name)
    return wire[0].upper() + wire[1:]


def _from_rest(request: Request) -> None:
    bucket, _, key = request.path.lstrip("/").partition("/")
    asked = dict(parse_qsl(request.query, keep_blank_values=True))
    request.parameters = {"Bucket": unquote(bucket), **({"Key": unquote(key)} if key else {})}
    method = request.method
    if not bucket:
        request.action = "ListBuckets"
    elif key:
        if method == "PUT":
            name = "UploadPart" if "partNumber" in asked else "PutObject"
            request.action = "CopyObject" if "x-amz-copy-source" in request.headers else name
        elif method == "POST":
            request.action = "CreateMultipartUpload" if "uploads" in asked else "CompleteMultipartUpload"
        elif method == "DELETE":
            request.action = "AbortMultipartUpload" if "uploadId" in asked else "DeleteObject"
        else:
            request.action = {"GET": "GetObject", "HEAD": "HeadObject"}.get(method, method)
        if "If-None-Match".lower() in request.headers:
            request.parameters["IfNoneMatch"] = request.headers["if-none-match"]
    elif method == "GET":
        sub = next((name for name in asked if not asked[name]), "")
        named = {
            "location": "GetBucketLocation",
            "publicAccessBlock": "GetPublicAccessBlock",
            "versioning": "GetBucketVersioning",
            "versions": "ListObjectVersions",
        }
        request.action = named.get(sub) or ("ListObjectsV2" if asked.get("list-type") == "2" else f"GetBucket {sub}")
        if "prefix" in asked:
            request.parameters["Prefix"] = asked["prefix"]
        if "start-after" in asked:
            request.parameters["StartAfter"] = asked["start-after"]
    else:
        named = {"HEAD": "HeadBucket", "PUT": "CreateBucket", "DELETE": "DeleteBucket", "POST": "DeleteObjects"}
        request.action = named.get(method, method)


def check_signature(request: Request, secret: str, now: float) -> None:
    """Raise ``RefusedError`` unless the request was signed with the secret, just now."""
    signed = request.signature
    assert signed is not None
    when = request.headers.get("x-amz-date", "")
    at = datetime.strptime(when, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()
    if abs(at - now) > SKEW_S:
        if request.service == "s3":
            message = "The difference between the request time and the current time is too large."
            raise RefusedError("RequestTimeTooSkewed", message, 403)
        code = "RequestExpired" if request.service == "ec2" else "SignatureDoesNotMatch"
        raise RefusedError(code, "Signature not yet current or expired", 400 if code == "RequestExpired" else 403)
    said = request.headers.get("x-amz-content-sha256", hashlib.sha256(request.body).hexdigest())
    real = hashlib.sha256(request.body).hexdigest()
    if re.fullmatch("[0-9a-f]{64}", said) and said != real:
        raise RefusedError(
            "XAmzContentSHA256Mismatch", "The provided 'x-amz-content-sha256' header does not match", 400
        )
    pairs = sorted(
        (quote(name, safe="-_.~"), quote(value, safe="-_.~"))
        for name, value in parse_qsl(request.query, keep_blank_values=True)
    )
    names = signed["headers"].split(";")
    canonical = "\n".join(
        [
            request.method,
            request.path or "/",
            "&".join(f"{name}={value}" for name, value in pairs),
            *(f"{name}:{' '.join(request.headers.get(name, '').split())}" for name in names),
            "",
            signed["headers"],
            said,
        ]
    )
    key = b"AWS4" + secret.encode()
    for part in signed["scope"].split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    text = "\n".join(["AWS4-HMAC-SHA256", when, signed["scope"], hashlib.sha256(canonical.encode()).hexdigest()])
    if not hmac.compare_digest(hmac.digest(key, text.encode(), "sha256").hex(), signed["signature"]):
        message = "The request signature we calculated does not match the signature you provided."
        raise RefusedError("AuthFailure" if request.service == "ec2" else "SignatureDoesNotMatch", message, 403)


def error(request: Request, refused: RefusedError) -> tuple[int, dict[str, str], bytes]:
    """Return the error as the service words it: status, headers, body."""
    code, message = escape(refused.code), escape(refused.message)
    if request.headers.get("x-amz-target"):
        body = json.dumps({"__type": refused.code, "message": refused.message})
        return refused.status, {"Content-Type": "application/x-amz-json-1.1"}, body.encode()
    if request.service == "ec2":
        body = (
            f"<Response><Errors><Error><Code>{code}</Code><Message>{message}</Message></Error></Errors>"
            "<RequestID>fake</RequestID></Response>"
        )
    elif request.service == "s3":
        body = f"<Error><Code>{code}</Code><Message>{message}</Message><RequestId>fake</RequestId></Error>"
        body = "" if request.method == "HEAD" else body
    else:
        body = (
            f"<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code><Message>{message}</Message></Error>"
            "<RequestId>fake</RequestId></ErrorResponse>"
        )
    return refused.status, {"Content-Type": "text/xml"}, body.encode()
