"""The studio's addresses: pages, data for them, actions. Starlette calls the plain functions in threads."""

from __future__ import annotations

import hmac
import ipaddress
import json
import math
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

import mindone_ddpm
from mindone_ddpm.common.errors import ConfigError, UserError
from mindone_ddpm.jobs.base import JOBS
from mindone_ddpm.output.charts import SVG_SCRIPT, SVG_STYLE
from mindone_ddpm.output.run_folder import RUN_CONFIG
from mindone_ddpm.studio import forms
from mindone_ddpm.studio.actions import Actions
from mindone_ddpm.studio.folder import StudioFolder, is_run
from mindone_ddpm.studio.machine import Machine
from mindone_ddpm.studio.runs import Runs
from mindone_ddpm.studio.tasks import Tasks

STATIC = Path(__file__).parent / "static"
TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
IMAGES = {".png": "image/png", ".gif": "image/gif", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp"}
COOKIE = "mindone_ddpm_studio"
MOST_BODY_BYTES = 96 << 20  # an image and a mask, as text
OWN_HEADER = "x-studio"  # another site's page cannot send it
HEADERS = {
    # Nothing is fetched from elsewhere, and no script runs that is not a file of the studio.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}

Handler = Callable[[Request], Awaitable[Response]]


def answer(content: Any, status: int = 200) -> Response:
    return JSONResponse(without_infinities(content), status)


def without_infinities(content: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, dict):
        return {str(name): without_infinities(value) for name, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [without_infinities(value) for value in content]
    return content


def problem(error: Exception) -> Response:
    if isinstance(error, ConfigError):
        return answer({"problems": error.problems}, 400)
    if isinstance(error, UserError):
        return answer({"problems": str(error).splitlines()}, 400)
    assert isinstance(error, OSError)
    where = f"{error.filename}: " if error.filename else ""
    return answer({"problems": [f"{where}{error.strerror or error}"]}, 500)


def reading(function: Callable[[Request], Any]) -> Handler:
    """A route that gives data."""

    async def handle(request: Request) -> Response:
        try:
            found = await run_in_threadpool(function, request)
        except (UserError, OSError) as error:
            return problem(error)
        return found if isinstance(found, Response) else answer(found)

    return handle


def acting(function: Callable[[dict[str, Any]], Any]) -> Handler:
    """A route that does something with what a page has sent."""

    async def handle(request: Request) -> Response:
        try:
            content = await body_of(request)
            return answer(await run_in_threadpool(function, content))
        except (UserError, OSError) as error:
            return problem(error)

    return handle


async def body_of(request: Request) -> dict[str, Any]:
    """Raises ConfigError."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > MOST_BODY_BYTES:
            raise ConfigError("the request is too large")
        parts.append(part)
    try:
        content = json.loads(b"".join(parts))
    except (ValueError, RecursionError) as error:
        raise ConfigError("the request is not JSON") from error
    if not isinstance(content, dict):
        raise ConfigError("the request is not a table")
    return content


def text_of(content: dict[str, Any], name: str) -> str:
    value = content.get(name, "")
    if not isinstance(value, str):
        raise ConfigError(f"{name}: must be text")
    return value


def table_of(content: dict[str, Any], name: str) -> dict[str, Any]:
    value = content.get(name, {})
    if not isinstance(value, dict):
        raise ConfigError(f"{name}: must be a table")
    return value


class Guard(BaseHTTPMiddleware):
    """Lets in who knows the token, where there is one; refuses what other sites' pages send.

    Args:
        token: None: none is needed, and the page must be asked for by an address of this machine, so that another site
            cannot give itself that name (DNS rebinding).
    """

    def __init__(self, app: Any, token: str | None):
        super().__init__(app)
        self.token = token

    async def dispatch(self, request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        refused = self.refusal(request)
        if refused is not None:
            response = refused
        elif self.token is not None and "token" in request.query_params:
            response = self.let_in(request)
        else:
            response = await call_next(request)
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    def refusal(self, request: Request) -> Response | None:
        if self.token is None:
            if not is_this_machine(request.url.hostname or ""):
                return PlainTextResponse("This address is not the studio's; use the one that it has printed.", 403)
        else:
            given = request.query_params.get("token") or request.cookies.get(COOKIE) or bearer(request)
            if not hmac.compare_digest(given.encode(), self.token.encode()):
                return PlainTextResponse("A token is needed: open the address that the studio has printed.", 401)
        if request.method not in ("GET", "HEAD") and request.headers.get(OWN_HEADER) != "1":
            return PlainTextResponse("This request is not from the studio's page.", 403)
        return None

    def let_in(self, request: Request) -> Response:
        """Keep the token in a cookie, and take it out of the address."""
        response = RedirectResponse(request.url.path.rpartition("/")[2] or "./", 303)
        assert self.token is not None
        response.set_cookie(COOKIE, self.token, httponly=True, samesite="strict")
        return response


def bearer(request: Request) -> str:
    return request.headers.get("authorization", "").removeprefix("Bearer ")


def is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def make_app(root: Path, token: str | None = None) -> Starlette:
    """The studio of a folder. Raises ConfigError: there is none."""
    folder = StudioFolder(root)
    runs, tasks, machine = Runs(folder), Tasks(folder), Machine(folder.root)
    actions = Actions(folder, tasks)

    def run_named(name: str) -> Path:
        path = folder.inside(name)
        if not is_run(path):
            raise ConfigError(f"{name[:100]!r}: holds no run")
        return path

    def overview(request: Request) -> Any:
        return {
            "folder": str(folder.root),
            "version": mindone_ddpm.__version__,
            "runs": [runs.summary(path) for path in folder.runs()],
            "tasks": tasks.all(),
        }

    def models(request: Request) -> Any:
        return [model._asdict() for model in folder.models()]

    def one_run(request: Request) -> Any:
        path = run_named(request.query_params.get("path", ""))
        return {**runs.details(path), "task": tasks.task_of_run(folder.name_of(path))}

    def charts(request: Request) -> Any:
        chosen = [run_named(name) for name in request.query_params.getlist("path") or [""]]
        return {"figures": runs.charts(chosen), "differences": runs.differences(chosen) if len(chosen) > 1 else {}}

    def config_file(request: Request) -> Any:
        path = run_named(request.query_params.get("path", "")) / RUN_CONFIG
        return PlainTextResponse(path.read_text(encoding="utf-8", errors="replace"))

    def log(request: Request) -> Any:
        return {"text": tasks.log(request.query_params.get("task", ""))}

    def one_task(request: Request) -> Any:
        name = request.query_params.get("task", "")
        return {**tasks.about(name), "log": tasks.log(name)}

    def fields(request: Request) -> Any:
        return forms.fields_for(request.query_params.get("command", ""))

    def jobs(request: Request) -> Any:
        return [{"name": name, "help": JOBS[name].help} for name in JOBS]

    def image(request: Request) -> Any:
        path = folder.inside(request.query_params.get("path", ""))
        media_type = IMAGES.get(path.suffix.lower())
        if media_type is None or not path.is_file():
            return answer({"problems": ["no such image"]}, 404)
        return FileResponse(path, media_type=media_type, headers={"Cache-Control": "no-cache"})

    def static(request: Request) -> Any:
        name = request.path_params.get("name", "index.html")
        if name == "charts.js":
            return Response(f"{SVG_SCRIPT}\nwindow.showValues = showValues;\n", media_type=TYPES[".js"])
        if name == "charts.css":
            return Response(SVG_STYLE, media_type=TYPES[".css"])
        path = STATIC / name
        if "/" in name or path.suffix not in TYPES or not path.is_file():
            return answer({"problems": ["no such page"]}, 404)
        return Response(path.read_bytes(), media_type=TYPES[path.suffix])

    def form(content: dict[str, Any]) -> tuple[str, str, dict[str, Any], Any]:
        values = table_of(content, "values")
        return text_of(content, "command"), text_of(content, "name"), values, content.get("ranks", 1)

    def sample(content: dict[str, Any]) -> Any:
        chosen = content.get("models")
        if not isinstance(chosen, list) or not all(isinstance(name, str) for name in chosen):
            raise ConfigError("--model: choose one")
        return actions.sample(chosen, table_of(content, "values"))

    def inpaint(content: dict[str, Any]) -> Any:
        texts = [text_of(content, name) for name in ("image", "mask")]
        return {"task": actions.inpaint(text_of(content, "model"), table_of(content, "values"), *texts)}

    def stop(content: dict[str, Any]) -> Any:
        actions.stop(run_named(text_of(content, "path")))
        return {}

    def stop_task(content: dict[str, Any]) -> Any:
        tasks.stop(text_of(content, "task"))
        return {}

    get = {
        "overview": overview,
        "models": models,
        "tasks": lambda request: tasks.all(),
        "run": one_run,
        "charts": charts,
        "config": config_file,
        "log": log,
        "task": one_task,
        "fields": fields,
        "jobs": jobs,
        "image": image,
        "machine": lambda request: machine.load(),
    }
    post: dict[str, Callable[[dict[str, Any]], Any]] = {
        "check": lambda content: actions.check(*form(content)),
        "plan": lambda content: {"task": actions.plan(*form(content))},
        "start": lambda content: {"task": actions.start(*form(content))},
        "resume": lambda content: {"task": actions.resume(run_named(text_of(content, "path")))},
        "stop": stop,
        "stop_task": stop_task,
        "sample": sample,
        "inpaint": inpaint,
    }
    routes = [Route(f"/api/{name}", reading(function)) for name, function in get.items()]
    routes += [Route(f"/api/{name}", acting(function), methods=["POST"]) for name, function in post.items()]
    routes += [Route("/", reading(static)), Route("/{name}", reading(static))]
    return Starlette(routes=routes, middleware=[Middleware(Guard, token=token)])
