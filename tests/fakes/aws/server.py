"""The process behind ``Cloud``: ``python -m tests.fakes.aws.server`` prints its port, and ends when its input does."""

import base64
import contextlib
import json
import os
import re
import socket
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Mapping
from io import BytesIO
from typing import Any

os.environ["MOTO_EC2_LOAD_DEFAULT_AMIS"] = "false"
warnings.simplefilter("ignore")

from moto.backends import get_backend  # noqa: E402
from moto.moto_server.werkzeug_app import (  # noqa: E402
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from werkzeug.serving import make_server  # noqa: E402

from tests.fakes.aws import wire  # noqa: E402
from tests.fakes.aws.machines import spaces  # noqa: E402
from tests.fakes.aws.policies import authorize  # noqa: E402
from tests.fakes.aws.services import Services, role_of, wanted  # noqa: E402
from tests.fakes.aws.wire import RefusedError, Request  # noqa: E402
from tests.fakes.aws.world import ACCOUNT, BUCKET, World  # noqa: E402


class Gate:
    """A WSGI application: all requests of all services, and ours to it below ``/_cloud/``."""

    def __init__(self) -> None:
        self._services = Services(self)
        self._moto = DomainDispatcherApplication(create_backend_app)
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self.world: World | None = None
        self.url = ""

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        length = int(environ.get("CONTENT_LENGTH") or 0)
        body = environ["wsgi.input"].read(length) if length else b""
        path = environ.get("RAW_URI", environ["PATH_INFO"]).partition("?")[0]
        if path.startswith("/_cloud/"):
            try:
                answer = getattr(self, f"do_{path.removeprefix('/_cloud/')}")(**json.loads(body or b"{}"))
                status, headers, out = 200, {"Content-Type": "application/json"}, json.dumps(answer).encode()
            except Exception:  # noqa: BLE001 the test shall see it
                status, headers, out = 500, {"Content-Type": "text/plain"}, traceback.format_exc().encode()
        else:
            given = {
                name.removeprefix("HTTP_").replace("_", "-").lower(): value
                for name, value in environ.items()
                if name.startswith("HTTP_") or name in ("CONTENT_TYPE", "CONTENT_LENGTH")
            }
            request = wire.read(environ["REQUEST_METHOD"], path, environ.get("QUERY_STRING", ""), given, body)
            done = self._handled(request, environ)
            if done is None:
                with contextlib.suppress(OSError):
                    environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
                done = (500, {}, b"")
            status, headers, out = done
        # The answer to a HEAD says how long the object is, and has no body.
        start_response(f"{status} Answer", list({"Content-Length": str(len(out)), **headers}.items()))
        return [out]

    # What happens to a request.

    def _handled(self, request: Request, environ: dict[str, Any]) -> tuple[int, dict[str, str], bytes] | None:
        """Return status, headers and body, or None: the connection breaks."""
        with self.lock:
            world = self.world
            if world is None:
                return 503, {}, b"no cloud has been started"
            call = self._noted(world, request)
            try:
                self._authenticated(world, request, call)
            except RefusedError as refused:
                return self._closed(call, wire.error(request, refused))
            before = self._fault(world, call, when="before")
            after = None if before else self._fault(world, call, when="after")
        if before and before["kind"] == "hold":
            self._held(before)
            before = None
        if before:
            return None if before["kind"] == "reset" else self._closed(call, wire.error(request, _refusal(before)))
        with self.lock:
            if self.world is not world:
                return None
            try:
                answer = self._answered(world, request, environ, call)
            except RefusedError as refused:
                answer = wire.error(request, refused)
            call["status"] = answer[0]
            self.changed.notify_all()
        if after and after["kind"] == "hold":
            self._held(after)
        elif after:
            return None if after["kind"] == "reset" else self._closed(call, wire.error(request, _refusal(after)))
        return self._closed(call, answer)

    def _noted(self, world: World, request: Request) -> dict[str, Any]:
        world.violations += request.problems
        signed = request.signature
        who = world.keys[signed["key"]][1] if signed and signed["key"] in world.keys else "stranger"
        call: dict[str, Any] = {
            "number": len(world.calls) + 1,
            "service": request.service,
            "action": request.action,
            "parameters": json.loads(json.dumps(request.parameters, default=str)),
            "region": request.region,
            "who": who,
            "status": None,
            "at": time.time(),
        }
        if request.action == "RunInstances":
            call |= wanted(world, request)
        world.calls.append(call)
        self.changed.notify_all()
        return call

    def _authenticated(self, world: World, request: Request, call: dict[str, Any]) -> None:
        signed = request.signature
        if signed is None:
            if request.action == "AssumeRoleWithWebIdentity":
                return
            raise RefusedError(
                "AccessDenied" if request.service == "s3" else "MissingAuthenticationToken", "Not signed", 403
            )
        key = signed["key"]
        if key in world.expired:
            named = {"ec2": "RequestExpired", "ssm": "ExpiredTokenException"}
            raise RefusedError(
                named.get(request.service, "ExpiredToken"), "The security token included in the request is expired"
            )
        if key not in world.keys:
            role = get_backend("sts")[ACCOUNT]["aws"].get_assumed_role_from_access_key(key)
            if role is None:
                named = {"ec2": "AuthFailure", "s3": "InvalidAccessKeyId"}
                raise RefusedError(
                    named.get(request.service, "InvalidClientTokenId"), "AWS was not able to validate it", 403
                )
            world.keys[key] = (role.secret_access_key, "caller", role.session_token)
            call["who"] = "caller"
        secret, _, token = world.keys[key]
        if token and request.headers.get("x-amz-security-token") != token:
            raise RefusedError(
                "InvalidToken" if request.service == "s3" else "InvalidClientTokenId", "The token is invalid", 403
            )
        wire.check_signature(request, secret, time.time())

    def _fault(self, world: World, call: dict[str, Any], *, when: str) -> dict[str, Any] | None:
        for fault in world.faults:
            if fault["when"] != when or fault["times"] == 0 or not _matches(fault, call):
                continue
            if fault["skip"]:
                fault["skip"] -= 1
                continue
            if fault["times"] is not None:
                fault["times"] -= 1
            call["fault"] = fault["code"] or fault["kind"]
            return fault
        return None

    def _held(self, fault: dict[str, Any]) -> None:
        with self.changed:
            hold = self.world.holds[fault["name"]] if self.world else {"released": True}
            hold["reached"] = True
            self.changed.notify_all()
            self.changed.wait_for(lambda: hold["released"], timeout=120)

    def _closed(
        self, call: dict[str, Any], answer: tuple[int, dict[str, str], bytes]
    ) -> tuple[int, dict[str, str], bytes]:
        call["status"] = answer[0]
        return answer

    def _answered(
        self, world: World, request: Request, environ: dict[str, Any], call: dict[str, Any]
    ) -> tuple[int, dict[str, str], bytes]:
        profile = request.parameters.get("IamInstanceProfile", {})
        authorize(world, request, call["who"], role=role_of(profile) if request.action == "RunInstances" else None)
        own = self._services.answers.get((request.service, request.action))
        if request.service == "s3":
            owner = request.headers.get("x-amz-expected-bucket-owner")
            if owner and owner != ACCOUNT:
                raise RefusedError("AccessDenied", "Access Denied", 403)
        if own is not None:
            answer: tuple[int, dict[str, str], bytes] = own(world, request, environ, call)
            return answer
        return self.asked_moto(request, environ)

    def asked_moto(
        self, request: Request, environ: dict[str, Any], body: bytes | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        data = request.body if body is None else body
        passed = {**environ, "wsgi.input": BytesIO(data), "CONTENT_LENGTH": str(len(data))}
        got: list[Any] = []
        chunks = self._moto(passed, lambda status, headers, info=None: got.append((status, headers)))
        out = b"".join(chunks)
        with contextlib.suppress(AttributeError):
            chunks.close()  # type: ignore[attr-defined]
        status, headers = got[-1]
        number = int(status.split()[0])
        return number, dict(headers), out

    # What a test says.

    def do_start(self, **orders: Any) -> dict[str, Any]:
        """Begin anew with an empty account."""
        self.do_stop()
        with self.lock:
            world = self.world = World(orders, self.url)
            return {
                "url": self.url,
                "key": world.caller.access_key_id,
                "secret": world.caller.secret_access_key,
                "bucket": BUCKET,
                "images": world.images,
                "spaces": spaces(),
            }

    def do_stop(self) -> None:
        """End all machines."""
        with self.lock:
            world, self.world = self.world, None
            if world is None:
                return
            for hold in world.holds.values():
                hold["released"] = True
            self.changed.notify_all()
        world.close()

    def do_calls(self, since: int = 0) -> list[dict[str, Any]]:
        with self.lock:
            return list(self._now.calls[since:])

    def do_violations(self) -> list[str]:
        with self.lock:
            return list(self._now.violations)

    def do_instances(self) -> list[dict[str, Any]]:
        with self.lock:
            return [self._shown(identity) for identity in self._now.launched]

    def do_fault(self, **fault: Any) -> None:
        with self.lock:
            self._now.faults.append(fault)

    def do_clear(self) -> None:
        with self.lock:
            self._now.faults.clear()

    def do_hold(self, name: str, **fault: Any) -> None:
        with self.lock:
            self._now.holds[name] = {"reached": False, "released": False}
            self._now.faults.append({**fault, "name": name})

    def do_reached(self, name: str, seconds: float) -> bool:
        with self.changed:
            hold = self._now.holds[name]
            return self.changed.wait_for(lambda: bool(hold["reached"]), timeout=seconds)

    def do_release(self, name: str) -> None:
        with self.changed:
            self._now.holds[name]["released"] = True
            self._now.faults = [fault for fault in self._now.faults if fault.get("name") != name]
            self.changed.notify_all()

    def do_notice(self, identity: str, seconds: float) -> None:
        with self.lock:
            world = self._now
            world.machines[identity].notice_at = time.time() + seconds
        timer = threading.Timer(seconds, self._reclaim, (world, identity))
        timer.daemon = True
        timer.start()

    def do_pull_plug(self, identity: str, code: str) -> None:
        with self.lock:
            world = self._now
        self._reclaim(world, identity, code)

    def do_kill(self, identity: str, pattern: str, number: int) -> list[str]:
        with self.lock:
            machine = self._now.machines[identity]
        return machine.kill(pattern, number)

    def do_pass_deadline(self, identity: str) -> float | None:
        with self.lock:
            machine = self._now.machines[identity]
        return machine.pass_deadline()

    def do_lose_gpu(self, identity: str) -> None:
        with self.lock:
            self._now.machines[identity].lose_gpu()

    def do_processes(self, identity: str) -> list[str]:
        with self.lock:
            machine = self._now.machines[identity]
        return machine.processes()

    def do_console(self, identity: str) -> str:
        with self.lock:
            return self._now.machines[identity].console().decode(errors="replace")

    def do_skew(self, seconds: float) -> None:
        with self.lock:
            self._now.skew_s = seconds

    def do_linger(self, on: bool) -> None:
        with self.lock:
            world = self._now
            world.lingering = on
            for identity in world.launched:
                instance = world.instance(identity)
                if not on and instance.state == "shutting-down":
                    instance._state.name, instance._state.code = "terminated", 48

    def do_expire(self, who: str) -> None:
        with self.lock:
            world = self._now
            for key, (_, owner, _) in list(world.keys.items()):
                if owner == who or (who == "machines" and owner not in ("caller", "stranger")):
                    world.expired.add(key)

    def do_renew(self, who: str) -> None:
        with self.lock:
            world = self._now
            world.expired -= {key for key, (_, owner, _) in world.keys.items() if owner == who}

    def do_enforce(self, caller: list[Any], machine: list[Any]) -> None:
        with self.lock:
            self._now.policies = {"caller": caller, "machine": machine}

    def do_settings(self, quotas: dict[str, float], prices: dict[str, float]) -> None:
        with self.lock:
            self._now.quotas |= quotas
            self._now.prices |= prices

    def do_names(self, prefix: str) -> list[str]:
        with self.lock:
            bucket = get_backend("s3")[ACCOUNT]["aws"].buckets[BUCKET]
            return sorted(
                name for name, key in bucket.keys.items() if name.startswith(prefix) and type(key).__name__ == "FakeKey"
            )

    def do_objects(self, prefix: str) -> dict[str, str]:
        with self.lock:
            bucket = get_backend("s3")[ACCOUNT]["aws"].buckets[BUCKET]
            return {
                name: base64.b64encode(key.value).decode()
                for name, key in bucket.keys.items()
                if name.startswith(prefix) and type(key).__name__ == "FakeKey"
            }

    @property
    def _now(self) -> World:
        if self.world is None:
            raise RuntimeError("no cloud has been started")
        return self.world

    def _shown(self, identity: str) -> dict[str, Any]:
        world = self._now
        about, instance = world.launched[identity], world.instance(identity)
        return {
            "identity": identity,
            "state": instance.state,
            "reason": getattr(instance.state_reason, "code", "") or "",
            "type": instance.instance_type,
            "tags": {tag["key"]: tag["value"] for tag in instance.get_tags()},
            **{
                name: about[name]
                for name in ("region", "zone", "market", "token", "user_data", "launched_at", "ended_at")
            },
            "parameters": about["parameters"],
        }

    def _reclaim(self, world: World, identity: str, code: str = "Server.SpotInstanceTermination") -> None:
        machine = world.machines.get(identity)
        with self.lock:
            if self.world is not world or world.instance(identity).state not in ("pending", "running"):
                return
            world.end(identity, code, f"{code}: the machine was taken away")
        if machine:
            machine.power_off()
        with self.lock:
            self.changed.notify_all()


def _refusal(fault: Mapping[str, Any]) -> RefusedError:
    return RefusedError(fault["code"], fault["message"], fault["status"])


def _matches(fault: Mapping[str, Any], call: Mapping[str, Any]) -> bool:
    if not re.fullmatch(fault["action"], call["action"]):
        return False
    for name, pattern in fault["where"].items():
        found = call.get(name, call["parameters"].get(name))
        if name == "who" and pattern == "machine":
            if not str(found).startswith("i-"):
                return False
        elif found is None or not re.fullmatch(pattern, str(found)):
            return False
    return True


class _Handler(MotoRequestHandler):
    def log(self, *args: Any) -> None:
        pass


def main() -> None:
    gate = Gate()
    server = make_server("127.0.0.1", 0, gate, threaded=True, request_handler=_Handler)
    gate.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(gate.url, flush=True)
    sys.stdin.read()
    gate.do_stop()
    os._exit(0)


if __name__ == "__main__":
    main()
