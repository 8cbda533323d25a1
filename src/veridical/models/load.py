"""Load a vision-language policy: model, processor and adapters."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    BitsAndBytesConfig,
    GenerationConfig,
    PreTrainedModel,
)
from transformers.utils import logging

from veridical.models.adapters import adapter_base, merge_adapter
from veridical.models.attention import asked_attention, has_attention
from veridical.models.checkpoint_rest import watch_skipped
from veridical.models.model_argument import Model
from veridical.models.policy import Policy, in_four_bits
from veridical.models.precision import SPARE_BYTES, cast_weights, free_bytes, working_dtype
from veridical.models.templates import check_template, note_variables
from veridical.models.text_tokens import stop_adding_ends
from veridical.models.tuning import PROJECTORS, VISION_TOWERS
from veridical.models.usable import require_usable
from veridical.runtime import processes
from veridical.runtime.errors import UserError, reason_of
from veridical.runtime.files import read_json
from veridical.runtime.fingerprint import named_folder
from veridical.runtime.hub import check_hub_name
from veridical.runtime.lacking import is_memory_full
from veridical.runtime.local_code import brings_code
from veridical.runtime.options import AttentionName, DtypeName, Placement

MODEL_KIND, FOUR_BIT_KIND = "an image-text-to-text model", "a model of four bits"
BYTES_WITH_COPY = 6
"""For each weight in half precision that is copied in float32."""
_KEPT_WHOLE = ("lm_head", *PROJECTORS, *VISION_TOWERS)
"""What is never kept in four bits."""


def load_policy(
    name: Model,
    dtype: DtypeName = "auto",
    device: str = "auto",
    init_adapter: Path | None = None,
    four_bit: bool = False,
    template: Mapping[str, Any] | None = None,
    attention: AttentionName = "auto",
) -> Policy:
    """Load a model and its processor.

    Args:
        name: a hub name, a folder written by `save_pretrained`, a folder with a PEFT adapter
            (loaded on its base and merged), or `embedded`. A loaded policy is returned as it is.
        dtype: `auto` keeps the checkpoint's own, except that half precision becomes float32 on a
            CPU, where it is slow (our choice).
        device: `auto` takes CUDA, then MPS, then the CPU.
        init_adapter: a PEFT adapter to start from. It is merged into the weights, so that the
            reference of a run that starts here is exactly its start. In half precision, what
            rounding costs is printed, and kept in the policy (`merges`).
        four_bit: keep the language model's linear layers in four bits (NF4, their scales
            quantized too; Dettmers et al. 2023). Tower, projector and head stay as they are.
        template: what its chat template is given (`--template`).
        attention: the implementation of attention; `auto` is Transformers' choice.

    Raises:
        UserError: the name leads to nothing loadable, a needed package is missing, the chat
            template does not read what it is given, the model can't compute with that attention or
            lacks what is needed of it (`usable.require_usable`), or a loaded one is not what the
            options ask for.
    """
    if not isinstance(name, str):
        return _as_asked(name, dtype, device, init_adapter, four_bit, template, attention)
    folder = named_folder(name) or Path(name)
    if four_bit and starts_from_adapter(str(folder), init_adapter):
        raise UserError(
            "An adapter can't be merged into weights of four bits without rounding it away. Start "
            "from the merged model's folder, or set --tuning lora."
        )
    if (folder / "adapter_config.json").is_file():
        base = adapter_base(folder)
        policy = load_policy(
            base, dtype, device, init_adapter=folder, template=template, attention=attention
        )
        return merge_adapter(policy, init_adapter) if init_adapter else policy
    source = str(folder) if folder.is_dir() else name
    if not folder.is_dir():
        check_hub_name(name)
    logging.disable_progress_bar()  # it tells of milliseconds; downloads keep theirs
    chosen_device = choose_device(device)
    given = dict(template or {})
    processor = _load_processor(source, name, given)
    _check_generation(folder)
    if four_bit:
        model, skipped = _load_four_bit(source, name, dtype, chosen_device, attention), set[str]()
    else:
        with watch_skipped() as skipped:
            model = _load_plain(source, name, dtype, chosen_device, attention)
    policy = Policy(model.eval(), processor, name, template=given, skipped=tuple(sorted(skipped)))
    require_usable(policy)
    note_variables(name, processor, given)
    return merge_adapter(policy, init_adapter) if init_adapter else policy


def load_placed(
    name: Model, placement: Placement, template: Mapping[str, Any] | None = None
) -> Policy:
    """Load a model where and as a group of options says.

    Raises:
        UserError: as for `load_policy`.
    """
    return load_policy(
        name, placement.dtype, placement.device, template=template, attention=placement.attention
    )


def load_base(policy: Policy) -> Policy | None:
    """Load the model that adapters were merged into again, without them.

    Args:
        policy: as `load_policy` gave it, or with new adapters.

    Returns:
        The base, on the policy's device if a float32 copy has room there too, else on the CPU;
        None where neither has room for both.
    """
    folder = named_folder(policy.name) or Path(policy.name)
    source = str(folder) if folder.is_dir() else policy.name
    dtype = typing.cast(DtypeName, str(working_dtype(policy)).removeprefix("torch."))
    wide = BYTES_WITH_COPY * sum(weight.numel() for weight in policy.model.parameters())
    places = (policy.device, torch.device("cpu"))
    device = next((place for place in places if free_bytes(place) > wide + SPARE_BYTES), None)
    if device is None:
        return None
    model = _load_plain(source, policy.name, dtype, device)
    return dataclasses.replace(policy, model=model.eval(), vision=None, merges=(), adapter="")


def _as_asked(
    policy: Policy,
    dtype: DtypeName,
    device: str,
    init_adapter: Path | None,
    four_bit: bool,
    template: Mapping[str, object] | None,
    attention: AttentionName,
) -> Policy:
    """A loaded policy, if it is what the options ask for.

    Raises:
        UserError: it is not; names the option.
    """
    own, wanted = policy.device, None if device == "auto" else choose_device(device)
    differs = {
        f"dtype {dtype}": dtype != "auto" and policy.core.dtype != getattr(torch, dtype),
        f"device {device}": wanted is not None
        and (wanted.type, wanted.index or 0) != (own.type, own.index or 0),
        f"attention {attention}": not has_attention(policy.core, attention),
        "four bits": four_bit and not in_four_bits(policy),
        f"template {dict(template or {})}": template is not None
        and dict(template) != dict(policy.template),
        f"init_adapter {init_adapter}": init_adapter is not None,
    }
    for asked, is_other in differs.items():
        if is_other:
            raise UserError(
                f"The loaded model {policy.name} is not what {asked} asks for. Load it so by "
                "load_policy, or give its name."
            )
    return policy


def starts_from_adapter(name: str, init_adapter: Path | None) -> bool:
    """Whether `load_policy` merges an adapter: then a new one does not fit the base by itself."""
    return init_adapter is not None or (Path(name) / "adapter_config.json").is_file()


def use_plain_experts(model: PreTrainedModel) -> None:
    """Let mixtures of experts multiply one expert at a time: fast kernels know no float64."""
    for module in model.modules():
        if isinstance(module, PreTrainedModel) and module._can_set_experts_implementation():
            module.set_experts_implementation("eager")


def choose_device(device: str) -> torch.device:
    """The device that an option names.

    Raises:
        UserError: it can't be used here.
    """
    if device != "auto":
        try:
            return torch.empty(0, device=device).device
        except (RuntimeError, AssertionError) as error:
            raise UserError(f"device {device!r} can't be used here ({error}). Try cpu.") from error
    if torch.cuda.is_available():
        # Each of a launcher's processes takes its own.
        several = processes.world_size() > 1
        return torch.device("cuda", processes.local_rank()) if several else torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _choose_dtype(name: DtypeName, own: torch.dtype, device: torch.device) -> torch.dtype:
    if name != "auto":
        chosen: torch.dtype = getattr(torch, name)
        return chosen
    half = own in (torch.float16, torch.bfloat16)
    return torch.float32 if half and device.type == "cpu" else own


def _load_plain(
    source: str,
    name: str,
    dtype: DtypeName,
    device: torch.device,
    attention: AttentionName = "auto",
) -> Any:
    """Transformers' model in a dtype, on a device, to which its weights go one by one."""
    straight: dict[str, Any] = {} if device.type == "cpu" else {"device_map": {"": device}}
    straight |= _attention(source, name, dtype, device, attention)
    model = _load_model(source, name, dtype="auto", **straight)
    wanted = _choose_dtype(dtype, model.dtype, device)
    model = (model if model.dtype == wanted else cast_weights(model, wanted)).to(device)
    if wanted == torch.float64:
        use_plain_experts(model)
    return model


def _attention(
    source: str, name: str, dtype: DtypeName, device: torch.device, asked: AttentionName
) -> dict[str, str]:
    """What Transformers is told of attention; nothing where it chooses.

    Raises:
        UserError: the model can't compute so; nothing is loaded yet.
    """
    if asked == "auto":
        return {}
    config, own = _read_config(source, name, MODEL_KIND)
    wanted = _choose_dtype(dtype, own, device)
    return {"attn_implementation": asked_attention(asked, name, config, wanted, device)}


def _read_config(source: str, name: str, what: str) -> tuple[Any, torch.dtype]:
    """A checkpoint's configuration and the dtype that it names for its language model.

    Raises:
        UserError: it can't be read.
    """
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        return config, config.get_text_config().dtype or torch.float32
    except (OSError, ValueError) as error:
        raise UserError(_cannot_load(name, what, error)) from error


def _load_model(source: str, name: str, what: str = MODEL_KIND, **settings: Any) -> Any:
    """Transformers' model with all of its weights from the checkpoint.

    Raises:
        UserError: it can't be loaded, or the checkpoint lacks a weight, which Transformers would
            only warn of and fill with random numbers.
    """
    try:
        model, found = AutoModelForImageTextToText.from_pretrained(
            source,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **settings,
        )
    except ImportError as error:
        raise UserError(_missing_package(name, error)) from error
    # A damaged file or a foreign configuration is met with whatever it leads to.
    except Exception as error:
        if is_memory_full(error):
            raise
        raise UserError(_cannot_load(name, what, error)) from error
    _require_whole(name, type(model).__name__, found)
    return model


def _check_generation(folder: Path) -> None:
    """Read the generation settings, since Transformers goes on without a file that it can't read.

    An answer would then end at other tokens than the model was published with.

    Raises:
        UserError: the file is there and is not a JSON object.
    """
    path = folder / "generation_config.json"
    if path.is_file() and not isinstance(read_json(path), dict):
        raise UserError(f"{path} has to be a JSON object. Download or save it again.")


def _require_whole(name: str, kind: str, found: Mapping[str, Any]) -> None:
    advice = (
        "Download or save the checkpoint again, or correct its config.json; what is missing would "
        "be random numbers."
    )
    odd = sorted(found["mismatched_keys"])
    if odd:
        weight, given, wanted = odd[0]
        more = f" ({len(odd) - 1} more differ too)" if len(odd) > 1 else ""
        raise UserError(
            f"The weights of {name} do not fit {kind}: {weight} has the shape "
            f"{tuple(given)}, and config.json asks for {tuple(wanted)}{more}.\n{advice}"
        )
    missing = sorted(found["missing_keys"])
    if missing:
        names = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise UserError(f"{name} lacks {len(missing)} of the weights of {kind}: {names}.\n{advice}")


def _load_four_bit(
    source: str, name: str, dtype: DtypeName, device: torch.device, attention: AttentionName
) -> Any:
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(
            "--tuning qlora needs the package bitsandbytes: install veridical[quantized], or set "
            "--tuning lora."
        )
    _, own = _read_config(source, name, FOUR_BIT_KIND)
    compute = _choose_dtype(dtype, own, device)
    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute,
        # Patterns, matched from the start of a name.
        llm_int8_skip_modules=[f".*{name}" for name in _KEPT_WHOLE],
    )
    return _load_model(
        source, name, FOUR_BIT_KIND,
        dtype=compute, quantization_config=settings, device_map={"": device},
        **_attention(source, name, dtype, device, attention),
    )  # fmt: skip


def load_processor(name: str) -> object:
    """The processor that `load_policy` would load, without the model.

    Raises:
        UserError: as for `load_policy`.
    """
    folder = named_folder(name) or Path(name)
    if (folder / "adapter_config.json").is_file():
        return load_processor(adapter_base(folder))
    return _load_processor(str(folder) if folder.is_dir() else name, name, {})


def load_without_weights(name: str) -> Policy:
    """A policy that renders and counts tokens and can't compute: the model is on the meta device.

    Raises:
        UserError: as for `load_policy`.
    """
    folder = named_folder(name) or Path(name)
    if (folder / "adapter_config.json").is_file():
        return load_without_weights(adapter_base(folder))
    processor = load_processor(name)
    source = str(folder) if folder.is_dir() else name
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        with torch.device("meta"):
            model = AutoModelForImageTextToText.from_config(config, trust_remote_code=False)
    # A damaged file is met with whatever it leads to.
    except Exception as error:
        if is_memory_full(error):
            raise
        raise UserError(_cannot_load(name, MODEL_KIND, error)) from error
    with contextlib.suppress(OSError):  # a checkpoint may have no generation settings
        model.generation_config = GenerationConfig.from_pretrained(source)
    return Policy(model.eval(), processor, name)


def _load_processor(source: str, name: str, template: Mapping[str, object]) -> Any:
    try:
        processor = AutoProcessor.from_pretrained(source, trust_remote_code=False)
    except ImportError as error:
        raise UserError(_missing_package(name, error)) from error
    # A damaged file is met with whatever it leads to.
    except Exception as error:
        if is_memory_full(error):
            raise
        raise UserError(_cannot_load(name, "a processor", error)) from error
    if not hasattr(processor, "image_processor") or not hasattr(processor, "tokenizer"):
        raise UserError(
            f"{name} has no processor for images and text (found {type(processor).__name__}). "
            "Name a vision-language model, or save its processor into the folder."
        )
    check_template(processor, template, name)
    tokenizer = processor.tokenizer
    ending = stop_adding_ends(tokenizer, name)
    if ending and processes.is_first():
        print(
            f"The tokenizer of {name} adds {ending} behind every text. That is switched off, here "
            "and in what is saved: behind a prompt it would end the answer before it begins."
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return processor


def _missing_package(name: str, error: ImportError) -> str:
    # Behind the first sentence Transformers says how to install it, over several lines.
    reason = str(error).strip().splitlines()[0].split(". ")[0].rstrip(".")[:200]
    if "torchvision" in reason.lower():
        return (
            f"{name} wants torchvision, which is not installed or does not fit PyTorch: "
            f"{reason}.\nInstall the version that belongs to your PyTorch: pip install torchvision"
        )
    return f"{name} needs a package that is not installed: {reason}"


def _cannot_load(name: str, what: str, error: Exception) -> str:
    if "trust_remote_code" in str(error):
        return brings_code(name)
    reason = reason_of(error)
    if not isinstance(error, OSError | ValueError):
        reason = f"{type(error).__name__}: {reason}"
    return (
        f"{name} can't be loaded as {what}: {reason}\n"
        "Name a folder written by save_pretrained, a hub model, or `embedded`."
    )
