"""What the measuring of models found: kept for as long as the model is in the library."""

from __future__ import annotations

from dataclasses import asdict

from peewee import Database

from app.errors import RegistryError
from app.registry.records import MeasurementRecord
from app.registry.table import Row, Table
from app.registry.tables import Measurement, Model
from app.serving import Serving


class Measurements(Table[MeasurementRecord]):
    model = Measurement
    noun = "measurement"
    order = ("-created_at", "-id")

    def add(
        self,
        model_name: str,
        serving: Serving,
        *,
        nodes: tuple[str, ...],
        text: str,
        tokens: int,
        perplexity: float,
        reference: str | None = None,
        reference_perplexity: float | None = None,
        greedy_tokens: int | None = None,
        same_tokens: int | None = None,
        remark: str = "",
    ) -> MeasurementRecord:
        """Keep figures of a model of the library; see MeasurementRecord. Raises RegistryError when it is gone."""
        values = {
            "serving": asdict(serving),
            "nodes": list(nodes),
            "text": text,
            "tokens": tokens,
            "perplexity": perplexity,
            "reference": reference,
            "reference_perplexity": reference_perplexity,
            "greedy_tokens": greedy_tokens,
            "same_tokens": same_tokens,
            "remark": remark,
        }

        def work(database: Database) -> MeasurementRecord:
            found = next(iter(Model.select(Model.id).where(Model.name == model_name).tuples().execute(database)), None)
            if found is None:
                raise RegistryError(f"There is no model {model_name} any more, so its figures are not kept.")
            return self._insert(database, {"model": found[0], **values})

        return self._write(work)

    def list(self, model_name: str | None = None) -> list[MeasurementRecord]:
        """Measurements, of one model or of all, the newest first."""
        if model_name is None:
            return self._list()
        return self._list(Measurement.model.in_(Model.select(Model.id).where(Model.name == model_name)))

    def _record(self, row: Row) -> MeasurementRecord:
        values = {**row, "serving": Serving(**row["serving"]), "nodes": tuple(row["nodes"])}
        return MeasurementRecord(model_id=values.pop("model"), **values)
