"""Keys of the HTTP API. Only what a key hashes to is kept: who reads the registry cannot call the API with it."""

from __future__ import annotations

from peewee import Database

from app.errors import RegistryError
from app.registry.fields import now
from app.registry.records import ApiKeyRecord
from app.registry.table import Row, Table
from app.registry.tables import ApiKey


class ApiKeys(Table[ApiKeyRecord]):
    model = ApiKey
    noun = "API key"
    advice = "List what there is with: key list"
    order = ("name",)

    def add(self, *, name: str, digest: str, hint: str) -> ApiKeyRecord:
        """Keep a key by its digest; `hint` is what may be shown of it. Raises RegistryError when the name is taken."""

        def work(database: Database) -> ApiKeyRecord:
            if self._one(database, ApiKey.name == name) is not None:
                raise RegistryError(f"There is an API key '{name}' already.", "Choose another name, or remove it.")
            return self._insert(database, {"name": name, "digest": digest, "hint": hint})

        return self._write(work)

    def list(self) -> list[ApiKeyRecord]:
        return self._list()

    def remove(self, name: str) -> ApiKeyRecord:
        """Forget a key: it opens nothing any more. Raises RegistryError when there is none of this name."""

        def work(database: Database) -> ApiKeyRecord:
            record = self._one(database, ApiKey.name == name)
            if record is None:
                raise RegistryError(f"There is no API key '{name}'.", self.advice)
            self._delete(database, ApiKey.name == name)
            return record

        return self._write(work)

    def touch(self, name: str) -> None:
        """Note that a key was used just now. One that is gone is no error."""
        query = ApiKey.update({ApiKey.last_used_at: now()}).where(ApiKey.name == name)
        self._store.write(lambda database: query.execute(database))

    def _record(self, row: Row) -> ApiKeyRecord:
        return ApiKeyRecord(**{name: value for name, value in row.items() if name != "id"})
