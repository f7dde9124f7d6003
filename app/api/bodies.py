"""What endpoints take, as JSON or as a form of a page."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Literal, TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.responses import JSONResponse, RedirectResponse, Response

from app.api.failures import Refused
from app.api.gate import MOST_BODY_BYTES
from app.api.rendering import wants_page
from app.api.security import FORM_FIELD, MOST_FIELDS, is_form
from app.api.state import MOST_ID
from app.serving import MAX_WAIT_SECONDS, ServingWish
from app.sharding.planning.aims import DEFAULT_AIM, MEANINGS, Aim

Body = TypeVar("Body", bound="Strict")

DType = Literal["float32", "bfloat16", "float16"]
Quantize = Literal["none", "int8", "int4"]
KvDType = Literal["computed", "int8"]
Recovery = Literal["fast", "exact"]
Tokens = Field(default=None, ge=1, le=2**31 - 1)
Layers = Field(default=None, min_length=1, max_length=2000, description="ranges, ends included: 0-9,10-29")
Name = Field(min_length=1, max_length=200)


class Strict(BaseModel):
    """A name that nobody knows is a typing error, not something to pass over.

    With a greatest length, which no body reaches, every text is looked at, and one that holds half a character (JSON
    can spell a lone surrogate) is refused.
    """

    model_config = ConfigDict(extra="forbid", str_max_length=MOST_BODY_BYTES)


class Nothing(Strict):
    """No fields: the path says it all."""


class AddNode(Strict):
    """An agent, as it says of itself when it starts."""

    address: str = Field(min_length=1, max_length=300, description="HOST:PORT", examples=["192.168.1.20:7600"])
    key: str = Field(min_length=1, max_length=100, description="its public key: 40 characters")


class MeetingCode(Strict):
    """What the agent shows in its terminal."""

    code: str = Field(min_length=1, max_length=20, description="six digits; spaces do not matter", examples=["123 456"])


class DrainNode(Strict):
    draining: bool = Field(default=True, description="false lets it take new work again")
    move: bool = Field(default=False, description="hand what it holds over to other nodes, while it answers")


class Launch(Strict):
    """Agents to bring. Over SSH it is done in the window or by a command: that goes by its user's own keys there."""

    launcher: Literal["local", "ray"]
    count: int = Field(
        ge=1, le=64,
        description="local: how many agents more; ray: how many Ray nodes are to have one, in the cluster that "
        "`ray up` has named, else in the one that the controller's machine is in",
    )  # fmt: skip


class Invite(Strict):
    """Where an agent that is invited can join."""

    listen: str | None = Field(
        default=None, min_length=1, max_length=300,
        description="HOST:PORT to wait on; without it, this machine's address in its network, and port 7599",
    )  # fmt: skip
    reachable_as: str | None = Field(
        default=None, min_length=1, max_length=300,
        description="host under which the other machine reaches this one, if that is another",
    )  # fmt: skip


class MeasureLinks(Strict):
    """Between which nodes. Without any: all that answer."""

    nodes: list[Annotated[int, Field(ge=1, le=MOST_ID)]] | None = Field(
        default=None, min_length=2, max_length=1000, description="ids"
    )


class AddModel(Strict):
    """Where a model comes from."""

    source: str = Field(
        min_length=1, max_length=1000,
        description="a Hub id, `demo` for the small model of the demo, or a folder or GGUF file on the controller's "
        "machine (from that machine only)",
    )  # fmt: skip
    name: str | None = Field(
        default=None, min_length=1, max_length=100, description="what to call it; else its own name"
    )
    revision: str | None = Field(
        default=None, min_length=1, max_length=200, description="of a Hub id: branch, tag or commit"
    )
    dequantize: bool = Field(
        default=False, description="of a GGUF file: turn its matrices into floats, not keep them in blocks"
    )


class CutModel(Strict):
    """A model to write as shard folders. Give `num_shards` or `layers`."""

    model: str = Name
    num_shards: int | None = Field(default=None, ge=1, le=1000)
    layers: str | None = Layers
    output_dir: str | None = Field(
        default=None, min_length=1, max_length=1000,
        description="a folder below `shards` in the controller's home; an absolute path from that machine only. "
        "Else the model's name",
    )  # fmt: skip
    register_db: bool = Field(default=True, description="enter the shards in the registry")


class Deploy(Strict):
    """A model to load. What is left out is chosen by what the nodes have free."""

    model: str = Name
    nodes: list[Annotated[int, Field(ge=1, le=MOST_ID)]] | None = Field(
        default=None, min_length=1, max_length=1000, description="ids, in the order of the stages"
    )
    layers: str | None = Layers
    dtype: DType | None = None
    context: int | None = Tokens
    kv_tokens: int | None = Tokens
    quantize: Quantize | None = Field(
        default=None, description="into what the layers' float matrices are put while they are loaded"
    )
    kv_dtype: KvDType | None = Field(
        default=None, description="in what keys and values are kept: as they are computed, or in 8 bits"
    )
    wait_seconds: int | None = Field(
        default=None, ge=0, le=MAX_WAIT_SECONDS,
        description="how long answers wait for a lost node whose layers no other one has room for",
    )  # fmt: skip
    recovery: Recovery | None = Field(
        default=None, description="how answers go on when a stage was lost: fast, or exact, to the bit, from a journal"
    )
    aim: Aim = Field(
        default=DEFAULT_AIM,
        description="what the planner aims at: " + "; ".join(f"{aim}: {meaning}" for aim, meaning in MEANINGS.items()),
    )
    live: bool = Field(
        default=False, description="move the stages of what is deployed to `nodes`, one for each, while it answers"
    )
    replica: bool = Field(
        default=False,
        description="load what is deployed once more, on `nodes`, one for each stage, or where there is room: both "
        "share the requests, and one takes over when the other is lost",
    )

    @property
    def serving(self) -> ServingWish:
        return ServingWish(**{name: getattr(self, name) for name in ServingWish.__slots__})


class MeasureModel(Strict):
    """A model to measure. What is left out is as for a deployment."""

    nodes: list[Annotated[int, Field(ge=1, le=MOST_ID)]] | None = Field(
        default=None, min_length=1, max_length=1000, description="ids, in the order of the stages"
    )
    layers: str | None = Layers
    dtype: DType | None = None
    quantize: Quantize | None = Field(default=None, description="what is measured against the floats")
    kv_dtype: KvDType | None = Field(default=None, description="as well: in what keys and values are kept")
    against: str | None = Field(
        default=None, min_length=1, max_length=200,
        description="another model of the library to compare with, instead of its own floats",
    )  # fmt: skip

    @property
    def serving(self) -> ServingWish:
        return ServingWish(dtype=self.dtype, quantize=self.quantize, kv_dtype=self.kv_dtype)


class LogIn(Strict):
    key: str = Field(max_length=200)
    next: str = Field("/", max_length=2000)


def accepts(model: type[Body]) -> Callable[[Request], Awaitable[Body]]:
    """A dependency that reads a body of this kind. Raises what becomes 415 or 422."""

    async def read(request: Request) -> Body:
        values = await _form(request, model) if is_form(request) else await _json(request)
        try:
            return model.model_validate(values)
        except ValidationError as error:
            raise RequestValidationError(error.errors(include_url=False, include_context=False)) from None

    return read


def body_of(model: type[Strict]) -> dict[str, Any]:
    """For a route's `openapi_extra`: both forms in which the body may come."""
    schema = model.model_json_schema()
    optional = not any(field.is_required() for field in model.model_fields.values())
    content: dict[str, Any] = {"application/json": {"schema": schema}}
    if model.model_fields:
        content["application/x-www-form-urlencoded"] = {"schema": _with_token(schema)}
    return {"requestBody": {"required": not optional, "content": content}}


def done(request: Request, view: BaseModel, page: str, status: int = 200) -> Response:
    """The answer to a body: back to a page for a form of one, else JSON."""
    if is_form(request) and wants_page(request):
        return RedirectResponse(page, 303)
    return JSONResponse(view.model_dump(mode="json"), status)


def _with_token(schema: dict[str, Any]) -> dict[str, Any]:
    token = {"type": "string", "description": "of the page the form is on; not needed with an API key"}
    return {**schema, "properties": {**schema.get("properties", {}), FORM_FIELD: token}}


async def _json(request: Request) -> Any:
    body = await request.body()
    if not body:
        return {}
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not kind.endswith("+json"):
        raise Refused(
            415, f"A body of the kind '{kind}' cannot be read.", "Send JSON (application/json).", code="media_type"
        )
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        problem = {"type": "json_invalid", "loc": ("body",), "msg": f"This is no JSON: {error}", "input": None}
        raise RequestValidationError([problem]) from None


async def _form(request: Request, model: type[Strict]) -> dict[str, Any]:
    """A form's fields; those left empty were not filled in. Lists are written with commas."""
    values: dict[str, Any] = {}
    for name, value in (await request.form(max_files=0, max_fields=MOST_FIELDS)).items():
        if name == FORM_FIELD or not isinstance(value, str) or not value.strip():
            continue
        field = model.model_fields.get(name)
        is_list = field is not None and "list" in str(field.annotation)
        values[name] = [piece for piece in value.replace(",", " ").split() if piece] if is_list else value.strip()
    return values
