"""Load a vision-language policy: model, processor and adapters."""

from __future__ import annotations

import copy
import dataclasses
import importlib.util
import math
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model, peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    BitsAndBytesConfig,
    PreTrainedModel,
)
from transformers.utils import logging

from veridical import processes
from veridical._tokens import stop_adding_ends
from veridical.checkpoint_rest import watch_skipped
from veridical.errors import UserError
from veridical.files import read_json
from veridical.hub import check_hub_name
from veridical.image_checks import words_of
from veridical.local_code import brings_code
from veridical.lora_targets import EXPERTS_ARE_NO_MODULES, describe, lora_targets, refuse_on_experts
from veridical.merging import merge_adapters
from veridical.precision import HALF, cast_weights, widen, working_dtype
from veridical.templates import check_template, note_variables

EMBEDDED_MODEL = Path(__file__).parent / "world" / "weights"
"""The tiny model that ships with the package; its name is `embedded`."""

DtypeName = Literal["auto", "float64", "float32", "bfloat16", "float16"]
TuningName = Literal["lora", "qlora", "full"]

MODEL_KIND, FOUR_BIT_KIND = "an image-text-to-text model", "a model of four bits"

_PROJECTORS = ("multi_modal_projector", "connector", "aligner", "merger", "embed_vision")
_VISION_TOWERS = ("vision_tower", "vision_model", "visual")
_KEPT_WHOLE = ("lm_head", *_PROJECTORS, *_VISION_TOWERS)
"""What is never kept in four bits."""

_PLACEHOLDER = re.compile(
    r"^(.*_)?(image|video|audio|vision|visual|frame|boi|eoi|boa|eoa)_(.*_)?(token|patch)_"
    r"(id|ids|index)$"
)
"""How configurations name the tokens that stand for what is not text, or go around it."""


@dataclass(frozen=True)
class Policy:
    """A model that answers questions about images, with the processor that feeds it."""

    model: Any
    """Transformers' image-text-to-text model, or a PEFT model around one."""
    processor: Any
    name: str
    vision: Any = None
    """A `vision_cache.VisionCache` that stands in for the vision side, or None."""
    skipped: tuple[str, ...] = ()
    """Tensors of the checkpoint that the model class does not load, such as multi-token
    prediction heads."""
    template: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)
    """What `--template` gave: variables of the chat template, or its name (`chat_template`)."""

    @property
    def core(self) -> Any:
        """The Transformers model itself; adapters, if any, sit inside its layers."""
        return unwrap(self.model)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = next(self.model.parameters()).device
        return device


@dataclass(frozen=True)
class Tuning:
    """Which weights are trained.

    Attributes:
        kind: `lora` trains low-rank adapters on every linear layer of the language model, `qlora`
            the same on weights kept in four bits; `full` trains the language model's own weights.
        rank: LoRA rank.
        alpha: LoRA scaling numerator (the update is scaled by alpha / rank).
        dropout: LoRA dropout, a fraction.
        targets: last parts of the names of the layers that get adapters; empty for all.
        rslora: scale the update by alpha / sqrt(rank) instead.
        dora: train each weight's magnitude apart from its direction.
        train_projector: also train the projector between vision tower and language model.
        train_vision: also train the vision tower (adapters under `lora`).
    """

    kind: TuningName = "lora"
    rank: int = 128
    alpha: int = 256
    dropout: float = 0.0
    train_projector: bool = False
    train_vision: bool = False
    targets: tuple[str, ...] = ()
    rslora: bool = False
    dora: bool = False

    @property
    def scaling(self) -> float:
        """What every adapter's update is multiplied by."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)


def load_policy(
    name: str,
    dtype: DtypeName = "auto",
    device: str = "auto",
    init_adapter: Path | None = None,
    four_bit: bool = False,
    template: Mapping[str, Any] | None = None,
) -> Policy:
    """Load a model and its processor.

    Args:
        name: a hub name, a folder written by `save_pretrained`, a folder with a PEFT adapter
            (loaded on its base and merged), or `embedded`.
        dtype: `auto` keeps the checkpoint's own, except that half precision becomes float32 on a
            CPU, where it is slow (our choice).
        device: `auto` takes CUDA, then MPS, then the CPU.
        init_adapter: a PEFT adapter to start from. It is merged into the weights, so that the
            reference of a run that starts here is exactly its start.
        four_bit: keep the language model's linear layers in four bits (NF4, their scales
            quantised too; Dettmers et al. 2023). Tower, projector and head stay as they are.
        template: what its chat template is given (`--template`).

    Raises:
        UserError: the name leads to nothing loadable, a needed package is missing, the chat
            template does not read what it is given, or the model lacks what is needed of it
            (`usable.require_usable`).
    """
    folder = EMBEDDED_MODEL if name == "embedded" else Path(name)
    if four_bit and starts_from_adapter(str(folder), init_adapter):
        raise UserError(
            "An adapter can't be merged into weights of four bits without rounding it away. Start "
            "from the merged model's folder, or set --tuning lora."
        )
    if (folder / "adapter_config.json").is_file():
        base = adapter_base(folder)
        policy = load_policy(base, dtype, device, init_adapter=folder, template=template)
        return _merge_adapter(policy, init_adapter) if init_adapter else policy
    source = str(folder) if folder.is_dir() else name
    if not folder.is_dir():
        check_hub_name(name)
    logging.disable_progress_bar()  # it tells of milliseconds; downloads keep theirs
    chosen_device = _choose_device(device)
    given = dict(template or {})
    processor = _load_processor(source, name, given)
    _check_generation(folder)
    if four_bit:
        model, skipped = _load_four_bit(source, name, dtype, chosen_device), set[str]()
    else:
        with watch_skipped() as skipped:
            model = _load_model(source, name, dtype="auto")
        wanted = _choose_dtype(dtype, model.dtype, chosen_device)
        model = (model if model.dtype == wanted else cast_weights(model, wanted)).to(chosen_device)
        if wanted == torch.float64:
            use_plain_experts(model)
    policy = Policy(model.eval(), processor, name, template=given, skipped=tuple(sorted(skipped)))
    from veridical.usable import require_usable  # it stands on what stands on this module

    require_usable(policy)
    note_variables(name, processor, given)
    return _merge_adapter(policy, init_adapter) if init_adapter else policy


def starts_from_adapter(name: str, init_adapter: Path | None) -> bool:
    """Whether `load_policy` merges an adapter: then a new one does not fit the base by itself."""
    return init_adapter is not None or (Path(name) / "adapter_config.json").is_file()


def in_four_bits(policy: Policy) -> bool:
    """Whether the language model's weights are kept in four bits."""
    return bool(getattr(policy.core, "is_loaded_in_4bit", False))


def unwrap(model: Any) -> Any:
    """The Transformers model under PEFT and under the wrappers of distributed training."""
    while True:
        if isinstance(model, PeftModel):
            model = model.base_model.model
        elif hasattr(model, "module") and not hasattr(model, "config"):
            model = model.module
        else:
            return model


def prepare_training(policy: Policy, tuning: Tuning) -> Policy:
    """Freeze everything, then make what `tuning` asks for trainable.

    Raises:
        UserError: a projector or vision tower is asked for and none is found, or full tuning of
            half-precision weights.
    """
    core = policy.core
    core.requires_grad_(False)
    language_model = core.get_decoder()
    trained = [language_model]
    projector = _find(core, _PROJECTORS, "projector") if tuning.train_projector else None
    if tuning.train_vision:
        trained.append(_find(core, _VISION_TOWERS, "vision tower")[1])
    if tuning.kind == "full":
        if working_dtype(policy) in HALF:
            raise UserError(
                f"Full fine-tuning of {str(working_dtype(policy)).removeprefix('torch.')} weights "
                "would round most updates away. Set --mixed-precision bf16 (float32 weights, "
                "computing in bfloat16), --dtype float32, or --tuning lora (adapters stay in "
                "float32)."
            )
        for module in (
            *trained,
            core.get_output_embeddings(),
            *([projector[1]] if projector else []),
        ):
            module.requires_grad_(True)
        return policy
    widen_trained(policy, tuning)
    targets = lora_targets(core, trained, tuning.rank, tuning.targets)
    if targets.parameters:
        refuse_on_experts(core, tuning.dropout, tuning.dora)
    described = describe(targets)
    if described is not None and processes.is_first():
        print(described)
    names = targets.modules
    if projector:
        names = [name for name in names if not name.startswith(projector[0] + ".")]
    config = LoraConfig(
        r=tuning.rank,
        lora_alpha=tuning.alpha,
        lora_dropout=tuning.dropout,
        bias="none",
        target_modules=names,
        target_parameters=targets.parameters or None,
        rank_pattern=targets.rank_pattern(),
        alpha_pattern=targets.alpha_pattern(tuning.scaling, tuning.rslora),
        use_rslora=tuning.rslora,
        use_dora=tuning.dora,
        modules_to_save=[projector[0]] if projector else None,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=EXPERTS_ARE_NO_MODULES)
        prepared = dataclasses.replace(policy, model=get_peft_model(core, config))
    require_wide(prepared.model)
    return prepared


def widen_trained(policy: Policy, tuning: Tuning) -> None:
    """Keep what is trained whole beside adapters in float32, in a model of half precision.

    Before the reference is computed, so that it and the start of the policy are the same.

    Raises:
        UserError: a projector is asked for and none is found.
    """
    if tuning.kind != "full" and tuning.train_projector:
        widen(_find(policy.core, _PROJECTORS, "projector")[1])


def require_wide(model: Any) -> None:
    """Refuse to train weights in half precision, which round small updates away.

    Raises:
        UserError: names a weight.
    """
    narrow = [n for n, p in model.named_parameters() if p.requires_grad and p.dtype in HALF]
    if narrow:
        raise UserError(
            f"{narrow[0]} would be trained in half precision ({len(narrow)} weights in all), which "
            "rounds most updates away. Set --dtype float32."
        )


def find_projector(model: Any) -> Any:
    """The module between vision tower and language model; None if none is found."""
    found = _find_all(model, _PROJECTORS)
    return found[0][1] if found else None


def projector_parameters(policy: Policy) -> list[nn.Parameter]:
    """The trained parameters of the projector, which may have a learning rate of their own."""
    found = _find_all(policy.core, _PROJECTORS)
    return [p for _, module in found for p in module.parameters() if p.requires_grad]


def trains_vision(policy: Policy) -> bool:
    """Whether anything that images pass before the language model is trained."""
    core = policy.core
    sides = (core.get_decoder(), core.get_output_embeddings(), core.get_input_embeddings())
    language = {id(parameter) for side in sides for parameter in side.parameters()}
    return any(p.requires_grad and id(p) not in language for p in core.parameters())


def adapter_parameters(model: Any, adapter: str) -> list[nn.Parameter]:
    """The weights of one of several adapters, and of modules that it brings whole.

    By the modules that hold them: layers of a model may be called what an adapter is called.
    """
    found: dict[int, nn.Parameter] = {}
    for layer in model.modules():
        if not isinstance(layer, BaseTunerLayer | AuxiliaryTrainingWrapper):
            continue
        for kind in layer.adapter_layer_names:
            held = getattr(layer, kind, {})
            own = held[adapter] if adapter in list(held) else None
            many = own.parameters() if isinstance(own, nn.Module) else [own]
            found |= {id(p): p for p in many if isinstance(p, nn.Parameter)}
    return list(found.values())


@contextmanager
def as_reference(policy: Policy) -> Iterator[Policy]:
    """Switch the adapters (and modules trained beside them) off: the policy as it started."""
    with adapters_off(policy.model):
        yield policy


@contextmanager
def adapters_off(model: Any) -> Iterator[None]:
    """Let a PEFT model compute what it did before it was adapted.

    PEFT's own switch also switches off which weights are trained. FSDP2 keeps that mark in two
    places, so it would come back in one only, and the adapters would be left out of what is saved.
    """
    if not isinstance(model, PeftModel):
        raise TypeError("only an adapter can be switched off; copy the model with `frozen_copy`")
    kinds = (BaseTunerLayer, AuxiliaryTrainingWrapper)
    layers = [m for m in model.modules() if isinstance(m, kinds) and not m.disable_adapters]
    for layer in layers:
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False


def frozen_copy(policy: Policy) -> Policy:
    """A copy of the policy that never trains: the reference of full fine-tuning."""
    model = copy.deepcopy(policy.model).eval().requires_grad_(False)
    return dataclasses.replace(policy, model=model, vision=None)


def end_token_ids(policy: Policy) -> set[int]:
    """Every token that ends an answer, from the generation settings and the tokenizer."""
    configured = policy.core.generation_config.eos_token_id
    many = configured if isinstance(configured, list) else [configured]
    ends = [i for i in (*many, policy.processor.tokenizer.eos_token_id) if i is not None]
    odd = [i for i in ends if isinstance(i, bool) or not isinstance(i, int)]
    if odd:
        raise UserError(
            f"The model's eos_token_id is {odd[0]!r}; it has to be a token's number or a list of "
            "numbers. Correct it in its generation_config.json (or config.json)."
        )
    return set(ends)


def image_token_id(policy: Policy) -> int:
    """The id of the placeholder that image features replace.

    Raises:
        UserError: the model declares none.
    """
    config = policy.core.config
    for name in ("image_token_id", "image_token_index"):
        if getattr(config, name, None) is not None:
            return int(getattr(config, name))
    raise UserError(
        f"{policy.name} declares no image token, so its image placeholders can't be told from "
        "text. Set `image_token_id` in its config.json."
    )


def placeholder_token_ids(config: Any) -> set[int]:
    """Every token that a model's configuration names as standing for, or around, what is not text.

    Some families put features at several of them (Ovis2), so none may be part of an answer.
    """
    found: set[int] = set()
    for name, value in vars(config).items():
        if _PLACEHOLDER.search(name):
            found.update(
                i for i in (value if isinstance(value, list) else [value]) if i is not None
            )
    return found


def use_plain_experts(model: Any) -> None:
    """Let mixtures of experts multiply one expert at a time: fast kernels know no float64."""
    for module in model.modules():
        if isinstance(module, PreTrainedModel) and module._can_set_experts_implementation():
            module.set_experts_implementation("eager")


def image_features(core: Any, inputs: Mapping[str, Any]) -> Any:
    """The features of images where they enter the language model, by the model's own method.

    Args:
        core: Transformers' model.
        inputs: what its processor made of the images alone.
    """
    owner = core if hasattr(core, "get_image_features") else core.model
    return owner.get_image_features(**inputs)


def _choose_device(device: str) -> torch.device:
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
    except (MemoryError, torch.OutOfMemoryError):
        raise
    # A damaged file or a foreign configuration is met with whatever it leads to.
    except Exception as error:
        raise UserError(_cannot_load(name, what, error)) from error
    _require_whole(name, type(model).__name__, found)
    return model


def _check_generation(folder: Path) -> None:
    """Read the generation settings, since Transformers goes on without a file that it can't read.

    An answer would then end at other tokens than the model was published with.

    Raises:
        UserError: the file is there and is no JSON object.
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


def _load_four_bit(source: str, name: str, dtype: DtypeName, device: torch.device) -> Any:
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(
            "--tuning qlora needs the package bitsandbytes: install veridical[quantized], or set "
            "--tuning lora."
        )
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        own = config.get_text_config().dtype or torch.float32
    except (OSError, ValueError) as error:
        raise UserError(_cannot_load(name, FOUR_BIT_KIND, error)) from error
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
    )  # fmt: skip


def load_processor(name: str) -> Any:
    """The processor that `load_policy` would load, without the model.

    Raises:
        UserError: as for `load_policy`.
    """
    folder = EMBEDDED_MODEL if name == "embedded" else Path(name)
    if (folder / "adapter_config.json").is_file():
        return load_processor(adapter_base(folder))
    return _load_processor(str(folder) if folder.is_dir() else name, name, {})


def _load_processor(source: str, name: str, template: Mapping[str, Any]) -> Any:
    try:
        processor = AutoProcessor.from_pretrained(source, trust_remote_code=False)
    except ImportError as error:
        raise UserError(_missing_package(name, error)) from error
    # A damaged file is met with whatever it leads to.
    except Exception as error:
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
    reason = words_of(error)
    if not isinstance(error, OSError | ValueError):
        reason = f"{type(error).__name__}: {reason}"
    return (
        f"{name} can't be loaded as {what}: {reason}\n"
        "Name a folder written by save_pretrained, a hub model, or `embedded`."
    )


def adapter_base(folder: Path) -> str:
    """The name of the base that an adapter's folder names.

    Raises:
        UserError: it names none.
    """
    try:
        base = PeftConfig.from_pretrained(str(folder)).base_model_name_or_path
    # A damaged file is met with whatever it leads to.
    except Exception as error:
        reason = words_of(error)
        raise UserError(f"{folder / 'adapter_config.json'} can't be read: {reason}.") from error
    if not base:
        raise UserError(
            f"{folder} is an adapter that does not name its base. "
            "Load the base model and give the adapter as --init-adapter."
        )
    return str(base)


def _merge_adapter(policy: Policy, adapter: Path) -> Policy:
    if not (adapter / "adapter_config.json").is_file():
        raise UserError(f"{adapter} holds no PEFT adapter (adapter_config.json is missing).")
    with require_fitting_adapter(
        f"The adapter {adapter} does not fit {policy.name}", "Name its own base model."
    ):
        widen_saved_modules(policy.core, adapter)
        adapted = PeftModel.from_pretrained(policy.model, str(adapter))
    model = merge_adapters(adapted)
    return dataclasses.replace(policy, model=model.eval(), vision=None)


def widen_saved_modules(core: Any, adapter: Path) -> None:
    """Keep modules that an adapter brings whole in float32, or they are rounded when it is loaded.

    Args:
        core: Transformers' model.
        adapter: folder of the adapter that is loaded next.
    """
    named = PeftConfig.from_pretrained(str(adapter)).__dict__.get("modules_to_save") or ()
    for name, module in list(core.named_modules()):
        wrapped = isinstance(module, AuxiliaryTrainingWrapper)
        if name.endswith(tuple(named)) and named and not wrapped:
            widen(module)


@contextmanager
def require_fitting_adapter(trouble: str, advice: str) -> Iterator[None]:
    """Refuse an adapter, loaded within, that does not fit in every tensor.

    PEFT only warns of weights that it does not find, and drops those that have no place in silence.

    Args:
        trouble: how the error begins.
        advice: how it ends.

    Raises:
        UserError: a tensor is missing, left over or of another shape.
    """
    try:
        with _watch_adapters() as (lacking, unplaced):
            yield
    except (UserError, MemoryError, torch.OutOfMemoryError):
        raise
    # A damaged file is met with whatever it leads to.
    except Exception as error:
        # PEFT looks the tensors of `modules_to_save` up one by one.
        lost = isinstance(error, KeyError) and str(error.args[0]).startswith("base_model.")
        reason = f"it lacks the tensor {error.args[0]}" if lost else words_of(error)
        raise UserError(f"{trouble}: {reason}.\n{advice}") from error
    for names, what in (
        (lacking, ("it lacks the tensor", "it lacks {} tensors")),
        (unplaced, ("it has no place for the tensor", "it has no place for {} tensors")),
    ):
        if len(names) == 1:
            raise UserError(f"{trouble}: {what[0]} {names[0]}.\n{advice}")
        if names:
            many = what[1].format(len(names))
            raise UserError(f"{trouble}: {many} ({names[0]} among them).\n{advice}")


@contextmanager
def _watch_adapters() -> Iterator[tuple[list[str], list[str]]]:
    """Collect the names of tensors that adapters loaded within lack, and that have no place."""
    lacking: list[str] = []
    unplaced: list[str] = []
    stock = peft_model.set_peft_model_state_dict

    def noting(model: Any, tensors: Any, adapter_name: str = "default", **named: Any) -> Any:
        result = stock(model, tensors, adapter_name, **named)
        # The base's own weights are "missing" too, and so are other adapters'. PEFT's own list
        # leaves modules out that are kept whole beside the adapters (`modules_to_save`).
        lacking.extend(sorted(n for n in result.missing_keys if adapter_name in n.split(".")))
        unplaced.extend(sorted(result.unexpected_keys))
        return result

    peft_model.set_peft_model_state_dict = noting
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*missing adapter keys.*")
            warnings.filterwarnings("ignore", message=EXPERTS_ARE_NO_MODULES)
            yield lacking, unplaced
    finally:
        peft_model.set_peft_model_state_dict = stock


def _find_all(core: Any, names: tuple[str, ...]) -> list[tuple[str, nn.Module]]:
    return [
        (path, module)
        for path, module in core.named_modules()
        if path.rsplit(".", 1)[-1] in names and ".layers." not in path
    ]


def _find(core: Any, names: tuple[str, ...], what: str) -> tuple[str, nn.Module]:
    found = _find_all(core, names)
    if not found:
        raise UserError(
            f"No {what} was found in {type(core).__name__}; leave --train-"
            f"{'projector' if what == 'projector' else 'vision'} off for this model."
        )
    return found[0]
