"""Child process: converts a GGUF file to a Hugging Face folder. Imports torch; run only as a child.

Everything is transformers' own work (reading, dequantizing, permuting, renaming); what is ours is the order:
one layer after another, so that memory holds a layer and never the model. Dequantized, the result equals what
`from_pretrained(gguf_file=…)` and `save_pretrained` would write, bit for bit.

Matrices stay in their blocks where the model has a linear layer, an embedding or experts of the same rows
(`gguf_tensors.py`).
"""

from __future__ import annotations

import contextlib
import functools
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import msgspec

from app.children.work import Meter, ProgressCallback, serve_job
from app.errors import DiskFullError, ModelError
from app.figures import size_text
from app.models.checkpoint import INDEX
from app.models.gguf import ConvertOutcome, ConvertRequest, model_files, model_name
from app.models.gguf_config import settle_config
from app.models.gguf_header import GgufHeader, read_gguf, write_outline
from app.models.gguf_meaning import ADVICE
from app.models.gguf_tensors import GgufState, Legacy, Packed, formats_by_number
from app.models.safetensors_file import blocks_metadata

BLOCK = re.compile(r"blk\.(\d+)\.")

TOKENIZER_KIND, DIVISION = "tokenizer.ggml.model", "tokenizer.ggml.pre"

PLAIN_DIVISIONS = frozenset({
    "default", "gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "granite-docling", "gigachat", "a.x-4.0", "mellum",
    "modern-bert", "roberta-bpe", "jina-es", "jina-de", "jina-v1-en", "jina-v2-es", "jina-v2-de", "jina-v2-code",
})  # fmt: skip
"""Names under which llama.cpp divides a text as GPT-2 does, and the one that says nothing."""


def convert(request: ConvertRequest, report: ProgressCallback) -> ConvertOutcome:
    """Write the model in a GGUF file to the folder `request.target`.

    Raises:
        ModelError: damaged, truncated, or of an architecture that transformers cannot read from GGUF.
        DiskFullError: the disk filled up.
    """
    path, target = Path(request.file), Path(request.target)
    files = model_files(path)
    header = read_gguf(files)
    with outlined(header, files) as outline:
        return _convert(request, path, outline, header, target, report)


@contextlib.contextmanager
def outlined(header: GgufHeader, files: Sequence[Path]) -> Iterator[Path]:
    """One file that has the metadata of all: the model's own, or an outline where it has several."""
    if len(files) == 1:
        yield files[0]
        return
    # What is mapped into memory cannot be deleted on Windows until this process ends.
    with tempfile.TemporaryDirectory(prefix="shardboard-gguf-", ignore_cleanup_errors=True) as folder:
        outline = Path(folder) / f"{model_name(files[0])}.gguf"
        write_outline(header, outline)
        yield outline


def _convert(
    request: ConvertRequest, path: Path, outline: Path, header: GgufHeader, target: Path, report: ProgressCallback
) -> ConvertOutcome:
    # Only now: importing torch takes seconds, and most that can be wrong is known without it.
    from worker_agent.model.imports import import_transformers

    import_transformers()
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import save_file
    from transformers.utils import logging

    logging.disable_progress_bar()
    target.mkdir(parents=True, exist_ok=True)
    reader = _open(path, outline, header, keep=not request.dequantize)
    meter = Meter(report, "converting", sum(tensor.nbytes for tensor in header.tensors))
    groups = [tuple(names) for _, names in groupby((tensor.name for tensor in header.tensors), key=_group)]
    sizes = {tensor.name: tensor.nbytes for tensor in header.tensors}
    weight_map: dict[str, str] = {}
    total = 0
    try:
        for number, names in enumerate(groups, start=1):
            file = f"model-{number:05d}-of-{len(groups):05d}.safetensors"
            tensors, formats = reader.convert(names)
            if tensors:
                save_file(
                    {name: tensor.contiguous() for name, tensor in tensors.items()}, target / file,
                    {"format": "pt", **blocks_metadata(formats)},
                )  # fmt: skip
                weight_map |= dict.fromkeys(tensors, file)
                total += sum(tensor.nbytes for tensor in tensors.values())
            del tensors
            meter.advance(sum(sizes[name] for name in names))
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        (target / INDEX).write_bytes(msgspec.json.format(msgspec.json.encode(index)))
        reader.save_configs(target)
        notes = reader.notes + _save_tokenizer(outline, target)
    except (OSError, SafetensorError) as error:
        if getattr(error, "errno", None) == 28 or "No space left" in str(error):
            raise DiskFullError(
                f"The disk of {target} filled up while {path.name} was converted.", "Free space."
            ) from error
        raise
    del torch
    if not request.dequantize:
        notes += _notes(reader.unfolded(), sum(sizes.values()), total)
    return ConvertOutcome(notes)


def _notes(unfolded: dict[str, str], before: int, after: int) -> tuple[str, ...]:
    """What a user should know of matrices that could not stay in their blocks: name to format."""
    if not unfolded:
        return ()
    count = "a matrix" if len(unfolded) == 1 else f"{len(unfolded)} matrices"
    return (
        f"Of {count} of the file, {next(iter(unfolded))} for one, floats were made, and {size_text(before)} became "
        f"{size_text(after)}: agents do not compute with its format ({', '.join(sorted(set(unfolded.values())))}), or "
        "the model has another tensor there.",
    )


def undo(request: ConvertRequest) -> None:
    """Remove what was converted until the work was broken off."""
    shutil.rmtree(request.target, ignore_errors=True)


def _group(name: str) -> str:
    """Tensors of one layer are converted together: transformers may fuse them."""
    found = BLOCK.match(name)
    return found[1] if found else name


class _Reader:
    """An empty model that is filled group by group, read out and emptied again."""

    def __init__(self, path: Path, header: GgufHeader, keep: bool) -> None:
        """`keep`: whether matrices stay in their blocks where they can. `notes` says what a user should know."""
        import torch
        from transformers import AutoModelForCausalLM
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.modeling_utils import LoadStateDictConfig
        from transformers.quantizers.quantizer_gguf import GgufHfQuantizer
        from transformers.utils.quantization_config import GgufConfig

        self._quantizer = GgufHfQuantizer(GgufConfig(gguf_file=path.name, dequantize=True))
        self._quantizer.read_header(str(path))
        dtype = self._quantizer.update_dtype(None)

        def build(config: Any) -> Any:
            with torch.device("meta"):
                return AutoModelForCausalLM.from_config(config, dtype=dtype)

        self._model, self.notes = settle_config(path, header, build)
        self.architecture = type(self._model).__name__
        self._quantizer.preprocess_model(model=self._model, dtype=dtype, device_map=None)
        if keep and self._quantizer.supported:
            self._keep_packed()
        self._dtype = dtype
        self._load = LoadStateDictConfig(
            dtype=dtype,
            dtype_plan=self._model._get_dtype_plan(dtype),
            hf_quantizer=self._quantizer,
            weight_mapping=get_model_conversion_mapping(self._model, None, self._quantizer),  # type: ignore[arg-type]
        )
        self._state: GgufState = (
            Packed(self._quantizer, header)
            if self._quantizer.supported
            else Legacy(path, header, self._model, dtype, keep)
        )

    def _keep_packed(self) -> None:
        """Have transformers leave in blocks what its own mapping says can stay so, for layers that have no experts."""
        import torch
        from transformers.integrations.gguf.utils import get_gguf_plan, replace_with_gguf_modules

        class AnyBlocks:
            def supports(self, kind: int) -> bool:
                return kind in formats_by_number()

        quantizer: Any = self._quantizer
        _, packable, permuted = get_gguf_plan(quantizer.header, quantizer.mapping)
        wanted = {name: kind for name, kind in packable.items() if name not in permuted and ".experts." not in name}
        with torch.device("meta"):
            quantizer.packed_modules = replace_with_gguf_modules(self._model, wanted, AnyBlocks(), quantizer.dtype)

    def convert(self, names: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, str]]:
        """GGUF tensors of these names as `save_pretrained` would name and store them, and which of them are in blocks:
        name to format. Those are uint8 [rows, bytes of a row].
        """
        import torch
        from transformers.core_model_loading import convert_and_load_state_dict_in_model, revert_weight_conversion

        kept, formats = self._state.in_blocks(names, self._model)
        names = tuple(name for name in names if name not in self._state.done)
        info, _ = convert_and_load_state_dict_in_model(self._model, self._state.read(names), self._load)
        self._check_places(names, info.unexpected_keys)
        if info.conversion_errors or info.mismatched_keys:
            problems = [*info.conversion_errors, *info.mismatched_keys]
            raise ModelError(f"The tensors {problems[:3]} of the GGUF file do not fit a {self.architecture}.")
        filled = {name: tensor for name, tensor in self._model.state_dict().items() if tensor.device.type != "meta"}
        tied = self._model.all_tied_weights_keys
        ignored = set(self._model._keys_to_ignore_on_save or ())
        floats = {name: tensor for name, tensor in filled.items() if name not in tied and name not in ignored}
        if self._quantizer.supported:
            self._model._weight_conversions = None  # as its quantizer does: GGUF's own renaming is not reverted
        saved: dict[str, Any] = revert_weight_conversion(self._model, floats) if floats else {}
        for name in filled:
            if isinstance(kind := getattr(self._model.get_submodule(name.rpartition(".")[0]), "ggml_type", None), int):
                formats[name] = formats_by_number()[kind]
            parent, _, leaf = name.rpartition(".")
            module = self._model.get_submodule(parent)
            if leaf in module._parameters:
                empty = torch.nn.Parameter(module._parameters[leaf].to("meta"), requires_grad=False)
                module._parameters[leaf] = empty
            else:
                module._buffers[leaf] = module._buffers[leaf].to("meta")
        formats = {name: format_ for name, format_ in formats.items() if name in saved or name in kept}
        return saved | kept, formats

    def _check_places(self, names: tuple[str, ...], unexpected: Iterable[str]) -> None:
        """Make sure that the model has a place for all that was read. Raises ModelError."""
        ignored = [re.compile(pattern) for pattern in self._model._keys_to_ignore_on_load_unexpected or ()]
        lost = [name for name in (*self._state.lost(names), *unexpected) if not any(p.search(name) for p in ignored)]
        if not lost:
            return
        layers = self._model.config.num_hidden_layers
        beyond = [
            name for name in lost if (found := BLOCK.match(name)) and (int(found[1]) >= layers or ".nextn." in name)
        ]
        if len(beyond) < len(lost):
            name = next(name for name in lost if name not in beyond)
            more = f" and {len(lost) - 1} more of its layer" if len(lost) > 1 else ""
            raise ModelError(
                f"The GGUF file holds the tensor '{name}'{more}, for which transformers' {self.architecture} has no "
                "place; without it the model would answer otherwise than it was made to.",
                ADVICE,
            )
        if not any("predict" in note for note in self.notes):
            self.notes += (f"The file's layers that predict further tokens are left out, '{beyond[0]}' for one.",)

    def unfolded(self) -> dict[str, str]:
        """Matrices that are in blocks in the file and were given out as floats: name to format."""
        return self._state.unfolded()

    def save_configs(self, target: Path) -> None:
        """config.json and generation_config.json as `save_pretrained` writes them."""
        config = self._model.config
        if hasattr(config, "quantization_config"):
            del config.quantization_config
        config.dtype = str(self._dtype).removeprefix("torch.")
        config.architectures = [self.architecture]
        config.save_pretrained(target)
        if self._model.can_generate():
            self._model.generation_config.save_pretrained(target)


def parse_once() -> None:
    """Have gguf's reader and table of names made once in this process.

    transformers parses the whole header anew for the config, the weights and the tokenizer, and builds the
    table of names anew for every module; with a vocabulary of 49,000 words that is most of the time.
    """
    import gguf

    gguf.GGUFReader = functools.cache(gguf.GGUFReader)  # type: ignore[assignment,misc]
    gguf.get_tensor_name_map = functools.cache(gguf.get_tensor_name_map)


def _know_experts() -> None:
    """Have transformers read how wide experts are, which its tables leave out: it takes its defaults otherwise, and
    no mixture of another width fits (Qwen3-235B for one).
    """
    from transformers.integrations.ggml import GGUF_CONFIG_MAPPING

    for kind in ("qwen2_moe", "qwen3_moe"):
        table: Any = GGUF_CONFIG_MAPPING[kind]
        table.setdefault("expert_feed_forward_length", "moe_intermediate_size")
        table.setdefault("expert_shared_feed_forward_length", "shared_expert_intermediate_size")


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn what transformers and gguf raise about a file they cannot read into a sentence for the user."""
    try:
        yield
    except (ValueError, KeyError, NotImplementedError, IndexError, TypeError, AttributeError) as error:
        raise ModelError(f"{path} cannot be converted: {error}.", ADVICE) from error


def _open(path: Path, outline: Path, header: GgufHeader, *, keep: bool) -> _Reader:
    parse_once()
    _know_experts()
    with _explained(path):
        return _Reader(outline, header, keep)


def _save_tokenizer(path: Path, target: Path) -> tuple[str, ...]:
    """Write the tokenizer that the file holds. Returns why not, when it holds none that can be read, or what of it has
    no effect.
    """
    from transformers import AutoTokenizer

    try:
        AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name).save_pretrained(target)
    except (ValueError, KeyError, TypeError, AttributeError, NotImplementedError, IndexError) as error:
        return (f"The file's tokenizer cannot be read ({type(error).__name__}: {error}).",)
    return _division_notes(path)


def _division_notes(path: Path) -> tuple[str, ...]:
    """What a user should know of the way in which the file's tokenizer divides texts."""
    import gguf
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    fields: Any = gguf.GGUFReader(str(path)).fields
    kind, name = (fields[key].contents() if key in fields else "" for key in (TOKENIZER_KIND, DIVISION))
    # Only of a vocabulary of bytes does transformers look at the name to good purpose; others have no such patterns.
    if kind != "gpt2" or not name or name in GGUF_PRE_TOKENIZER_SPLITS or name in PLAIN_DIVISIONS:
        return ()
    return (
        f"The file's tokenizer divides texts in a way ({DIVISION} = {str(name)[:60]}) that transformers has no pattern "
        "for, so they are divided as GPT-2 does, and numbers or other scripts may get other token ids than the model "
        "was made with.",
    )


if __name__ == "__main__":
    serve_job(ConvertRequest, convert, undo)
