"""`shard_model`: cut a model into shard folders."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from app.cli.options import Json, Layers
from app.cli.output import note, print_json, print_table, progress_shown
from app.cli.session import open_controller, origin
from app.errors import BadInput
from app.figures import size_text
from app.sharding.plan import range_text


def register(app: typer.Typer) -> None:
    app.command("shard_model")(shard_model)
    app.command("shard-model", hidden=True)(shard_model)


def shard_model(
    model_name: Annotated[
        str,
        typer.Option("--model_name", "--model-name", help="A name in the library, a folder, a Hub id, a GGUF file."),
    ],
    output_dir: Annotated[
        Path, typer.Option("--output_dir", "--output-dir", help="Where shard_0, shard_1, … are written.")
    ],
    num_shards: Annotated[
        int | None, typer.Option("--num_shards", "--num-shards", help="How many shards; layers are divided by bytes.")
    ] = None,
    shard_layers: Layers = None,
    device: Annotated[str, typer.Option("--device", help="Where weights are converted, should they need it.")] = "cpu",
    register_db: Annotated[
        bool, typer.Option("--register_db", "--register-db", help="Enter the shards into the registry.")
    ] = False,
    node_id: Annotated[
        int | None, typer.Option("--node_id", "--node-id", help="The node that the shards are for; with --register_db.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Cut a model into shards of whole layers, each a folder that stands for itself."""
    if num_shards is None and shard_layers is None:
        raise BadInput("How to cut is not said.", "Give --num_shards, or --layers with the layers of each shard.")
    if num_shards is not None and num_shards < 1:
        raise BadInput(f"A model cannot be cut into {num_shards} shards.", "Give a number from 1 on.")
    if node_id is not None and not register_db:
        raise BadInput("--node_id has a meaning only with --register_db.", "Give both, or neither.")
    with open_controller(monitor=False) as session, progress_shown(as_json) as progress:
        result = session.run(
            session.controller.cut_model(
                model_name,
                num_shards=num_shards,
                layers=shard_layers,
                output_dir=output_dir,
                device=device,
                register_db=register_db,
                node_id=node_id,
                on_progress=progress.job,
                origin=origin(),
            )
        )
    if as_json:
        print_json(result)
        return
    print_table(
        "Shards",
        ("Shard", "Layers", "Weights", "Folder"),
        [
            (shard.shard_id, range_text((shard.start_layer, shard.end_layer)), size_text(shard.nbytes), shard.folder)
            for shard in result.shards
        ],
        "",
    )
    note("The shards are written and verified.")
    if result.note:
        note(result.note)
