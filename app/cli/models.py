"""`model add|list|inspect|measure|remove`."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer

from app.cli.options import (
    DType,
    Json,
    KvDType,
    Layers,
    Nodes,
    Quantize,
    read_nodes,
    read_wish,
)
from app.cli.output import note, print_fields, print_json, print_table, progress_shown
from app.cli.session import Session, open_controller, open_registry, origin
from app.figures import count_text, size_text
from app.inference.model_defaults import ModelDefaults
from app.models.description import ModelDescription
from app.registry import MeasurementRecord
from app.runs.measured import circumstances_text, measured_text
from app.sharding.plan import range_text

app = typer.Typer(no_args_is_help=True)


@app.command("add")
def add_model(
    source: Annotated[str, typer.Argument(help="A folder, a Hub id (owner/name) or a GGUF file.")],
    name: Annotated[str | None, typer.Option(help="What to call it.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit on the Hub.")] = None,
    dequantize: Annotated[
        bool, typer.Option("--dequantize", help="Turn a GGUF file's matrices into floats, not keep them in blocks.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Take a model into the library: fetch it where needed, and inspect it."""
    with open_controller(monitor=False) as session, progress_shown(as_json) as progress:
        description = session.run(
            session.controller.add_model(
                source, name=name, revision=revision, dequantize=dequantize, on_progress=progress.job, origin=origin()
            )
        )
    _show(description, as_json)
    if not as_json:
        note(f"'{description.name}' is in the library.")


@app.command("list")
def list_models(as_json: Json = False) -> None:
    """Show the models in the library."""
    with open_registry() as registry:
        models = registry.models.list()
    if as_json:
        print_json(models)
        return
    print_table(
        "Models",
        ("Name", "Architecture", "Layers", "Parameters", "Weights", "Stored as", "Context", "From"),
        [
            (
                m.name,
                m.architecture,
                m.layers,
                count_text(m.parameters),
                size_text(m.weight_bytes),
                m.dtype,
                m.context,
                m.source,
            )
            for m in models
        ],
        "There is no model yet; add one with: model add SOURCE",
    )


@app.command("inspect")
def inspect_model(
    model: Annotated[str, typer.Argument(help="A name in the library, a folder, a Hub id or a GGUF file.")],
    as_json: Json = False,
) -> None:
    """Show what a model is and where it can be cut."""
    with open_controller(monitor=False) as session, progress_shown(as_json) as progress:
        description = session.run(session.controller.inspect_model(model, progress.job))
        measured = _measured(session, description)
    _show(description, as_json, measured)


@app.command("measure")
def measure_model(
    model: Annotated[str, typer.Argument(help="A name in the library.")],
    quantize: Quantize = None,
    kv_dtype: KvDType = None,
    against: Annotated[
        str | None, typer.Option(help="Another model of the library to compare with. [default: its own floats]")
    ] = None,
    nodes: Nodes = None,
    shard_layers: Layers = None,
    dtype: DType = None,
    as_json: Json = False,
) -> None:
    """Measure what a model's numbers cost: perplexity, and greedy tokens that stay the same. Takes minutes."""
    chosen = read_nodes(nodes)
    wish = read_wish(dtype=dtype, quantize=quantize, kv_dtype=kv_dtype)
    with open_controller() as session, progress_shown(as_json) as progress:
        record = session.run(
            session.controller.measure_model(
                model, serving=wish, nodes=chosen, layers=shard_layers, against=against,
                on_progress=progress.job, origin=origin(),
            )
        )  # fmt: skip
    if as_json:
        print_json(record)
        return
    print_fields(_measured_fields([record]))


@app.command("remove")
def remove_model(name: Annotated[str, typer.Argument(help="Its name in the library.")]) -> None:
    """Take a model out of the library."""
    with open_controller(monitor=False) as session:
        session.run(session.controller.remove_model(name))
    note(f"'{name}' is removed.")


def _kv_text(description: ModelDescription) -> str:
    kept = [size_text(description.kv_bytes_per_token(description.dtype))]
    if description.keeps_int8:
        kept.append(f"{size_text(description.kv_bytes_per_token(description.dtype, kv_dtype='int8'))} in int8")
    return ", ".join(kept)


def _measured(session: Session, description: ModelDescription) -> list[MeasurementRecord]:
    """Of a model of the library; of a folder that was only looked at there is nothing."""
    return session.run(session.controller.measurements(description.name))


def _measured_fields(records: list[MeasurementRecord]) -> list[tuple[str, str]]:
    fields = []
    for record in records:
        fields.append((f"In {record.serving.numbers}", measured_text(record)))
        fields.append(("", circumstances_text(record)))
        fields.extend([("", record.remark)] if record.remark else [])
    return fields


def _show(description: ModelDescription, as_json: bool, measured: list[MeasurementRecord] | None = None) -> None:
    if as_json:
        print_json(description if measured is None else {**msgspec.to_builtins(description), "measurements": measured})
        return
    sizes = [part.nbytes for part in description.layers]
    defaults = ModelDefaults.shown(description.path)
    state = description.state_bytes_per_sequence(description.dtype)
    print_fields(
        [
            ("Name", description.name),
            ("Architecture", f"{description.architecture} ({description.model_type})"),
            ("Layers", range_text((0, description.num_layers))),
            ("Parameters", count_text(description.parameters)),
            ("Weights", f"{size_text(description.weight_bytes)}, {description.dtype}"),
            ("Bytes per layer", _span(sizes)),
            ("Context", f"{description.max_context} tokens"),
            ("KV per token", _kv_text(description)),
            *((("State per sequence", size_text(state)),) if state else ()),
            ("Cuts", _cuts(description)),
            *(("", text) for text in description.cut_notes),
            ("Tokenizer", "yes" if description.has_tokenizer else "none: takes raw token ids only"),
            ("Parameters", defaults.in_words or "its own are the usual ones: greedy"),
            ("Folder", description.folder),
            *(("Note", text) for text in (*description.notes, *defaults.notes)),
            *_measured_fields(measured or []),
        ]
    )


def _span(sizes: list[int]) -> str:
    if not sizes:
        return "–"
    least, most = min(sizes), max(sizes)
    return size_text(least) if least == most else f"{size_text(least)} to {size_text(most)}"


def _cuts(description: ModelDescription) -> str:
    everywhere = tuple(range(1, description.num_layers))
    if not description.cuts:
        return "not possible"
    if description.cuts == everywhere:
        return "between any two layers"
    missing = sorted(set(everywhere) - set(description.cuts))
    return "not before layer " + ", ".join(map(str, missing))
