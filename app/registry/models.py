"""The models in the library."""

from __future__ import annotations

from typing import TypedDict, Unpack

from peewee import Database

from app.errors import RegistryError
from app.registry.records import ModelRecord
from app.registry.table import Row, Table
from app.registry.tables import Model


class ModelChanges(TypedDict, total=False):
    """What `Models.update` can change."""

    folder: str
    source: str
    architecture: str
    layers: int
    parameters: int
    weight_bytes: int
    dtype: str
    context: int


class Models(Table[ModelRecord]):
    model = Model
    noun = "model"
    advice = "List what there is with: model list"
    order = ("name",)

    def add(
        self,
        *,
        name: str,
        folder: str,
        source: str,
        architecture: str,
        layers: int,
        parameters: int,
        weight_bytes: int,
        dtype: str,
        context: int,
    ) -> ModelRecord:
        """Add a model. Raises RegistryError when the name is taken."""
        values = {
            "name": name,
            "folder": folder,
            "source": source,
            "architecture": architecture,
            "layers": layers,
            "parameters": parameters,
            "weight_bytes": weight_bytes,
            "dtype": dtype,
            "context": context,
        }

        def work(database: Database) -> ModelRecord:
            if self._one(database, Model.name == name) is not None:
                raise RegistryError(
                    f"There is a model {name} already.", "Remove it first, or add this one under another name."
                )
            return self._insert(database, values)

        return self._write(work)

    def find(self, name: str) -> ModelRecord | None:
        return self._store.read(lambda database: self._one(database, Model.name == name))

    def get(self, name: str) -> ModelRecord:
        """Raises RegistryError when there is no such model."""
        record = self.find(name)
        if record is None:
            raise self._missing(name)
        return record

    def list(self) -> list[ModelRecord]:
        return self._list()

    def update(self, name: str, **changes: Unpack[ModelChanges]) -> ModelRecord:
        return self._update(self.get(name).id, changes)

    def remove(self, name: str) -> ModelRecord:
        """Remove a model from the listing and return what it was. Its files are the library's to remove."""
        return self._remove(self.get(name).id)

    def _record(self, row: Row) -> ModelRecord:
        return ModelRecord(**row)
