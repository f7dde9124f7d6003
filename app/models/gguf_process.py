"""Child process: converts a GGUF file to a Hugging Face folder. Imports torch; run only as a child.

Everything is transformers' own work (reading, dequantizing, permuting, renaming); what is ours is the order:
one layer after another, so that memory holds a layer and never the model. Dequantized, the result equals what
`from_pretrained(gguf_file=…)` and `save_pretrained` would write, bit for bit.

Matrices stay in their blocks where the model has a linear layer or an embedding of the same rows. What is done to a
matrix on its way (llama's heads are permuted) is observed, not known: a matrix of row numbers and one of column
numbers is sent the same way; where whole rows come out, the rows of blocks are taken in that order.
"""

from __future__ import annotations

import contextlib
import functools
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import msgspec

from app.children.work import Meter, ProgressCallback, serve_job
from app.errors import DiskFullError, ModelError
from app.figures import size_text
from app.models.checkpoint import INDEX
from app.models.gguf import ConvertOutcome, ConvertRequest, model_files, model_name
from app.models.gguf_header import GgufHeader, read_gguf, write_outline
from app.models.safetensors_file import blocks_metadata
from worker_agent.wire.messages import BLOCK_FORMATS

BLOCK = re.compile(r"blk\.(\d+)\.")


@functools.cache
def _formats() -> dict[int, str]:
    """Those of GGUF files' formats that agents compute with, by their numbers there."""
    from gguf.constants import GGMLQuantizationType

    known = GGMLQuantizationType.__members__
    return {int(known[name]): name for name in BLOCK_FORMATS if name in known}


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
        note = _save_tokenizer(outline, target)
    except (OSError, SafetensorError) as error:
        if getattr(error, "errno", None) == 28 or "No space left" in str(error):
            raise DiskFullError(
                f"The disk of {target} filled up while {path.name} was converted.", "Free space."
            ) from error
        raise
    del torch
    notes = () if request.dequantize else _notes(reader.unfolded(), sum(sizes.values()), total)
    return ConvertOutcome(reader.architecture, len(set(weight_map.values())), note, notes)


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
        """`keep`: whether matrices stay in their blocks where they can."""
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.modeling_utils import LoadStateDictConfig
        from transformers.quantizers.quantizer_gguf import GgufHfQuantizer
        from transformers.utils.quantization_config import GgufConfig

        config = AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
        self._quantizer = GgufHfQuantizer(GgufConfig(gguf_file=path.name, dequantize=True))
        self._quantizer.read_header(str(path))
        dtype = self._quantizer.update_dtype(None)
        with torch.device("meta"):
            self._model = AutoModelForCausalLM.from_config(config, dtype=dtype)
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
        self._state: _GgufState = (
            _Packed(self._quantizer, header)
            if self._quantizer.supported
            else _Legacy(path, header, self._model, dtype, keep)
        )

    def _keep_packed(self) -> None:
        """Have transformers leave in blocks what its own mapping says can stay so, for layers that have no experts."""
        import torch
        from transformers.integrations.gguf.utils import get_gguf_plan, replace_with_gguf_modules

        class AnyBlocks:
            def supports(self, kind: int) -> bool:
                return kind in _formats()

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
                formats[name] = _formats()[kind]
            parent, _, leaf = name.rpartition(".")
            module = self._model.get_submodule(parent)
            if leaf in module._parameters:
                empty = torch.nn.Parameter(module._parameters[leaf].to("meta"), requires_grad=False)
                module._parameters[leaf] = empty
            else:
                module._buffers[leaf] = module._buffers[leaf].to("meta")
        formats = {name: format_ for name, format_ in formats.items() if name in saved or name in kept}
        return saved | kept, formats

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


class _GgufState:
    """The tensors of a GGUF file, read when asked for."""

    def __init__(self) -> None:
        self.done: set[str] = set()
        """Tensors that were given out in their blocks."""

    def read(self, names: tuple[str, ...]) -> dict[str, Any]:
        raise NotImplementedError

    def in_blocks(self, names: tuple[str, ...], model: Any) -> tuple[dict[str, Any], dict[str, str]]:
        """Those of the tensors that stay in their blocks, by their names in the model, and their formats."""
        return {}, {}

    def unfolded(self) -> dict[str, str]:
        """Matrices in blocks that were given out as floats, and their formats."""
        raise NotImplementedError


class _Packed(_GgufState):
    """Architectures that transformers reads through its newer path: lazy tensors, converted while loading."""

    def __init__(self, quantizer: Any, header: GgufHeader) -> None:
        import numpy as np
        from transformers.integrations.gguf.reader import load_gguf_state_dict

        super().__init__()
        self._quantizer = quantizer
        self._tensors = load_gguf_state_dict(quantizer.header)
        contents = {tensor.file: np.memmap(tensor.file, mode="r", dtype=np.uint8) for tensor in header.tensors}
        for tensor in header.tensors:  # in the files themselves: the header may be that of an outline
            self._tensors[tensor.name].data = contents[tensor.file][tensor.start : tensor.start + tensor.nbytes]

    def read(self, names: tuple[str, ...]) -> dict[str, Any]:
        return {name: self._tensors[name] for name in names}

    def unfolded(self) -> dict[str, str]:
        from transformers.integrations.gguf.dequant import GGML_NAME

        packed = self._quantizer.packed_modules
        return {
            name: GGML_NAME.get(kind, str(kind))
            for name, kind in self._quantizer.quantized.items()
            if name not in packed
        }


class _Legacy(_GgufState):
    """The other architectures: transformers' `load_gguf_checkpoint`, its loop over tensors taken apart."""

    def __init__(self, path: Path, header: GgufHeader, model: Any, dtype: Any, keep: bool) -> None:
        from gguf import GGUFReader
        from transformers.modeling_gguf_pytorch_utils import (
            TENSOR_PROCESSORS,
            TensorProcessor,
            get_gguf_hf_weights_map,
            load_gguf_checkpoint,
            read_field,
        )

        super().__init__()
        self._keep = keep
        reader: Any = GGUFReader(path)
        architecture = read_field(reader, "general.architecture")[0]
        config = load_gguf_checkpoint(path)["config"]
        files: list[Any] = [GGUFReader(file) for file in dict.fromkeys(tensor.file for tensor in header.tensors)]
        self._tensors = {tensor.name: tensor for file in files for tensor in file.tensors}
        self._dtype = dtype
        processors: Any = TENSOR_PROCESSORS
        self._processor = processors.get(architecture, TensorProcessor)(config=config)
        self._names = get_gguf_hf_weights_map(model, self._processor)

    def read(self, names: tuple[str, ...]) -> dict[str, Any]:
        import numpy as np
        import torch
        from gguf import dequantize

        made: dict[str, Any] = {"tensors": {}}
        for name in names:
            tensor = self._tensors[name]
            result = self._processor.process(
                weights=dequantize(tensor.data, tensor.tensor_type),
                name=name,
                tensor_key_mapping=self._names,
                parsed_parameters=made,
            )
            if result.name in self._names:
                made["tensors"][self._names[result.name]] = torch.from_numpy(np.copy(result.weights)).to(self._dtype)
        tensors: dict[str, Any] = made["tensors"]
        return tensors

    def in_blocks(self, names: tuple[str, ...], model: Any) -> tuple[dict[str, Any], dict[str, str]]:
        import numpy as np
        import torch
        from transformers.core_model_loading import revert_weight_conversion

        found: dict[str, Any] = {}
        formats: dict[str, str] = {}
        for name in names if self._keep else ():
            tensor, target = self._tensors[name], self._names.get(name)
            format_ = _formats().get(int(tensor.tensor_type))
            if target is None or format_ is None or tensor.data.ndim != 2 or not target.endswith(".weight"):
                continue
            module = model.get_submodule(target.removesuffix(".weight"))
            columns = tensor.data.shape[1] // BLOCK_FORMATS[format_][1] * BLOCK_FORMATS[format_][0]
            shape = (tensor.data.shape[0], columns)
            if type(module) not in (torch.nn.Linear, torch.nn.Embedding) or tuple(module.weight.shape) != shape:
                continue
            if list(revert_weight_conversion(model, {target: torch.empty(shape, device="meta")})) != [target]:
                continue
            order = self._rows(name, shape)
            if order is None:
                continue
            rows = tensor.data if order is ... else tensor.data[order]
            found[target], formats[target] = torch.from_numpy(np.array(rows)), format_
            self.done.add(name)
        return found, formats

    def unfolded(self) -> dict[str, str]:
        plain = {"F32", "F16", "BF16", "F64"}
        return {
            name: tensor.tensor_type.name
            for name, tensor in self._tensors.items()
            if name not in self.done and tensor.tensor_type.name not in plain and name in self._names
        }

    def _rows(self, name: str, shape: tuple[int, int]) -> Any:
        """In which order a matrix's rows stand in the model: numbers of rows, or ... for as they are.

        None where what comes out are not whole rows. Sent through transformers' own processing are a matrix whose
        numbers are those of their rows, and one whose numbers are those of their columns.
        """
        import numpy as np

        rows, columns = shape
        seen = []
        for numbers in (np.arange(rows, dtype=np.float32)[:, None], np.arange(columns, dtype=np.float32)[None]):
            sent = np.broadcast_to(numbers, shape)
            result = self._processor.process(
                weights=sent, name=name, tensor_key_mapping=self._names, parsed_parameters={"tensors": {}}
            )
            if result.name != name or result.weights is None or result.weights.shape != shape:
                return None
            seen.append((sent, result.weights))
        if all(sent is came for sent, came in seen):
            return ...
        order = seen[0][1][:, 0].astype(np.int64)
        for start in range(0, rows, 256):
            part = slice(start, start + 256)
            if (seen[0][1][part] != order[part, None]).any() or (seen[1][1][part] != seen[1][0][0]).any():
                return None
        return order


def _parse_once() -> None:
    """Have gguf's reader and table of names made once in this process.

    transformers parses the whole header anew for the config, the weights and the tokenizer, and builds the
    table of names anew for every module; with a vocabulary of 49,000 words that is most of the time.
    """
    import gguf

    gguf.GGUFReader = functools.cache(gguf.GGUFReader)  # type: ignore[assignment,misc]
    gguf.get_tensor_name_map = functools.cache(gguf.get_tensor_name_map)


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn what transformers and gguf raise about a file they cannot read into a sentence for the user."""
    try:
        yield
    except (ValueError, KeyError, NotImplementedError, IndexError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{path} cannot be converted: {error}.", "Use the model's safetensors version, from the Hub for one."
        ) from error


def _open(path: Path, outline: Path, header: GgufHeader, *, keep: bool) -> _Reader:
    _parse_once()
    with _explained(path):
        return _Reader(outline, header, keep)


def _save_tokenizer(path: Path, target: Path) -> str:
    """Write the tokenizer that the file holds. Returns why not, when it holds none that can be read."""
    from transformers import AutoTokenizer

    try:
        AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name).save_pretrained(target)
    except (ValueError, KeyError, TypeError, AttributeError, NotImplementedError, IndexError) as error:
        return f"The file's tokenizer cannot be read ({type(error).__name__}: {error})."
    return ""


if __name__ == "__main__":
    serve_job(ConvertRequest, convert, undo)
