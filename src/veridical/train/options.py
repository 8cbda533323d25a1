"""The options that all training commands share."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from veridical.models.tuning import Tuning, TuningName, refuse_full_in_half
from veridical.runtime import processes
from veridical.runtime.cache import Cache, open_cache
from veridical.runtime.errors import UserError
from veridical.runtime.files import read_json
from veridical.runtime.options import AttentionName, DtypeName, Placement
from veridical.train.loop.counting import rows_seen, total_steps
from veridical.train.loop.mixing import check_weights
from veridical.train.loop.order import GroupingName

SaveDtype = Literal["auto", "float32", "bfloat16", "float16"]
MixedPrecision = Literal["no", "bf16", "fp16"]
OF_ADAPTERS = (
    "lora_dropout", "lora_targets", "lora_rslora", "lora_dora", "lora_rank", "lora_alpha",
)  # fmt: skip
DEEPSPEED_FILE = "ACCELERATE_DEEPSPEED_CONFIG_FILE"


@dataclass(frozen=True, kw_only=True)
class Training:
    """Options of every training command.

    A command's own defaults are those of its parameter `training`. One that is made in Python has
    the defaults below, and needs a learning rate.

    Attributes:
        tuning: `lora` on the language model's linear layers, `qlora` (the same, on weights of
            four bits), or `full`.
        lora_rank: rank of the adapters.
        lora_alpha: scaling of the adapters (the update is scaled by alpha / rank).
        lora_dropout: of the adapters, a fraction. The reference, proofs and samples have none.
        lora_targets: last parts of the names of the layers that get adapters, such as q_proj
            v_proj; all linear layers if not set.
        lora_rslora: scale the update by alpha / sqrt(rank) (rsLoRA).
        lora_dora: train each weight's magnitude apart from its direction (DoRA).
        init_adapter: PEFT adapter to start from; it is merged (and is in the reference too, where
            that is the start).
        train_projector: train the projector too.
        train_vision: train the vision tower too.
        model_dropout: train with the dropout of the model's own configuration. The reference has
            none, so preference, reward and reinforcement learning leave it off unless asked.
        projector_learning_rate: of the projector, if trained; the common one if not set.
        learning_rate: peak learning rate.
        epochs: passes over the rows.
        max_steps: optimizer steps, 1 or more, instead of epochs; -1 for none.
        batch_size: rows on a device at once.
        accumulation: batches an optimizer step.
        group_by_length: put rows of like length into the same batch, for less padding: `step` among
            the rows of a step, whose gradient stays the same but for rounding, `epoch` among those
            of 50 batches, which then come in random order. Evaluation and the precomputed
            reference then also go by length.
        max_length: prompt and response together, in tokens; longer rows are listed and left
            out. The model's own limit if not set.
        max_response_tokens: longer responses lose their end (and are counted).
        more_data: further files whose rows are the same kind of record as DATA's (pairs beside
            pairs, prompts beside prompts); rows whose id is taken get another.
        data_weights: share of an epoch's rows that each file gets, DATA's first, such as 0.7 0.3.
            No row is dropped; those of a file that has too few are repeated. Each row once if not
            set.
        held_out: share of rows kept for evaluation, 0 to below 1; the checkpoint with the
            lowest loss on them is the result. Of prompts with `train ppo`, `train rloo` and
            `train grpo`, where it is the one with the highest reward.
        evaluations: how often the held-out rows are evaluated (and a checkpoint is kept).
        select_by: figure that chooses the best checkpoint: of the held-out rows `loss`,
            `rewards_accuracy` or `rewards_margin`; of the held-out prompts of `train ppo`,
            `train rloo` and `train grpo` `reward` or `exact_score` (the exact judge's, beside
            another judge); of --check-images `chair/chair_i`, `chair/chair_s` (lower is better),
            `chair/recall`, `pope/accuracy`, `pope/f1`, ...
        patience: evaluations without a better one of it after which training stops; it never stops
            early if not set.
        check_images: folder of images that the policy is asked about at every evaluation; none if
            not set. Take others than you train on, and others again for the final evaluation.
        check_objects: JSON {image_id: [names of the objects in the image]} for them.
        check_vocabulary: JSON as for `eval chair`; our own words for COCO's 80 classes if not set.
        check_by: `chair` (describe them), `pope` (yes/no questions) or both; what --select-by
            needs, else `chair`, if not set.
        check_limit: images asked about, the first by name that have a list.
        check_tokens: length limit of a description, in tokens.
        share_prefix: encode image and prompt once for all responses of a row, without logits for
            image tokens, where the model allows it.
        prove_first: run the proofs before the first step and stop if one fails.
        resume: go on from the newest checkpoint in OUT that verifies.
        extend: resume a run, finished or not, for another number of --epochs or --max-steps; the
            learning rate goes on where the schedule of that many steps has it.
        dry_run: only find out how much memory a step takes, by part and device, and write it to
            `dry_run.json`.
        cache: folder that runs share for reference log-probs and image features, or `none`; if
            not set, the variable VERIDICAL_CACHE says, else it is the user's folder for caches.
        cache_gigabytes: what that folder may hold, in 10^9 bytes; the longest unused goes first.
            With --cache none there is nothing to hold.
        vision_cache: keep each image's features there instead of encoding it at every step; the
            vision tower has to be frozen.
        save_merged: also write the merged model (LoRA), not only the adapter. It can't be left
            out where it is the only result.
        save_dtype: of the weights in `model/`; `auto` is that of training. What rounding to half
            precision costs is measured and printed.
        push_to_hub: repository OWNER/NAME on the Hugging Face hub that gets the finished model with
            its card, in one commit; the token comes from the variable HF_TOKEN alone. Not pushed
            if not set.
        push_public: make that repository public; a new one is private otherwise.
        images_root: what image paths are relative to; the data file's folder if not set.
        max_bad_fraction: share of unusable rows above which the run does not start.
        dtype: of the weights; `auto` keeps the checkpoint's own (float32 on a CPU). Under mixed
            precision it is bfloat16 for adapters, float32 for full tuning.
        mixed_precision: `bf16` keeps trained weights in float32 and computes matrix products in
            bfloat16, in training, proofs, reference, sampling and evaluation; the way to train a
            checkpoint of half precision in full. Beside adapters the frozen weights are kept in
            bfloat16. `fp16` would need its gradients scaled, and is refused.
        device: `auto`, `cpu`, `cuda`, `cuda:1`, ...
        attention: implementation of attention: `eager`, `sdpa`, `flash` (the package flash-attn;
            responses then do not share their prompt) or `flex` (PyTorch's FlexAttention, on a GPU);
            `auto` is `sdpa` where the model has it.
        seed: random seed of row order, adapter weights and the held-out split.
        template: a variable of the model's chat template, such as enable_thinking=true (false
            where the template reads it and nothing is said); chat_template=NAME chooses one.
        report_to: trackers that get the log's figures too: `tensorboard`, `trackio`, `wandb`; their
            keys come from the environment alone.
        show_every: steps between two times that the policy's answers to two prompts are printed,
            and kept in `shown.jsonl`; never if not set.
        trainer: any other option of Transformers' TrainingArguments.
    """

    tuning: TuningName = "lora"
    lora_rank: int = 128
    lora_alpha: int = 256
    lora_dropout: float = 0.0
    lora_targets: list[str] | None = None
    lora_rslora: bool = False
    lora_dora: bool = False
    init_adapter: Path | None = None
    train_projector: bool = False
    train_vision: bool = False
    model_dropout: bool = False
    projector_learning_rate: float | None = None
    learning_rate: float
    epochs: float = 1.0
    max_steps: int = -1
    batch_size: int = 8
    accumulation: int = 4
    group_by_length: GroupingName = "no"
    max_length: int | None = None
    max_response_tokens: int | None = None
    more_data: list[Path] | None = None
    data_weights: list[float] | None = None
    held_out: float = 0.05
    evaluations: int = 10
    select_by: str = "loss"
    patience: int | None = None
    check_images: Path | None = None
    check_objects: Path | None = None
    check_vocabulary: Path | None = None
    check_by: list[str] | None = None
    check_limit: int = 32
    check_tokens: int = 128
    share_prefix: bool = True
    prove_first: bool = True
    resume: bool = False
    extend: bool = False
    dry_run: bool = False
    cache: str | None = None
    cache_gigabytes: float = 50.0
    vision_cache: bool = False
    save_merged: bool = True
    save_dtype: SaveDtype = "auto"
    push_to_hub: str | None = None
    push_public: bool = False
    images_root: Path | None = None
    max_bad_fraction: float = 0.01
    dtype: DtypeName = "auto"
    mixed_precision: MixedPrecision = "no"
    device: str = "auto"
    attention: AttentionName = "auto"
    seed: int = 0
    template: dict[str, object] | None = None
    report_to: list[str] | None = None
    show_every: int | None = None
    trainer: dict[str, object] | None = None

    def __post_init__(self) -> None:
        """Extending is a way of resuming."""
        if self.extend:
            object.__setattr__(self, "resume", True)

    @property
    def trained(self) -> Tuning:
        """Which weights are trained."""
        return Tuning(
            self.tuning, self.lora_rank, self.lora_alpha, self.lora_dropout, self.train_projector,
            self.train_vision, tuple(self.lora_targets or ()), self.lora_rslora, self.lora_dora,
        )  # fmt: skip

    @property
    def four_bit(self) -> bool:
        """Whether the language model's weights are kept in four bits."""
        return self.tuning == "qlora"

    @property
    def placement(self) -> Placement:
        """Where and how models compute that are not trained, such as a judge."""
        return Placement(dtype=self.dtype, device=self.device, attention=self.attention)

    @property
    def weights_dtype(self) -> DtypeName:
        """What models that are trained are loaded as."""
        if self.mixed_precision == "no" or self.dtype != "auto":
            return self.dtype
        return "float32" if self.tuning == "full" else "bfloat16"

    def open_cache(self) -> Cache:
        """Where reference log-probs and image features are kept.

        Raises:
            UserError: the folder can't be one, or may hold nothing.
        """
        return open_cache(self.cache, self.cache_gigabytes)

    def steps(self, rows: int) -> int:
        """Optimizer steps that `rows` training rows give."""
        return total_steps(rows, self.rows_a_step(), self.epochs, self.max_steps)

    def rows_seen(self, steps: int, rows: int) -> int:
        """Rows that `steps` optimizer steps train on, each as often as it is seen."""
        return rows_seen(steps, rows, self.rows_a_step())

    def rows_a_step(self) -> int:
        """Rows that an optimizer step sees, over all processes."""
        return self.batch_size * self.accumulation * processes.world_size()

    def check(self) -> None:
        """Refuse what makes no sense whatever the rows.

        Raises:
            UserError: a count or rank below 1, no learning rate, nothing to do, or no folder for a
                cache.
        """
        self.open_cache()
        check_mixing(self)
        for name in ("batch_size", "accumulation", "evaluations", "lora_rank", "lora_alpha"):
            if getattr(self, name) < 1:
                raise UserError(
                    f"--{name.replace('_', '-')} is {getattr(self, name)}; give 1 or more."
                )
        if self.group_by_length == "step" and self.accumulation == 1:
            raise UserError(
                "--group-by-length step sorts a step's rows into its batches, and --accumulation 1 "
                "is one batch a step. Set --group-by-length epoch, or raise --accumulation."
            )
        for name in ("max_length", "max_response_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                option = name.replace("_", "-")
                raise UserError(f"--{option} is {value}; give 1 or more, or leave it out.")
        if not 0 <= self.held_out < 1:
            raise UserError(
                f"--held-out is {self.held_out:g}; give a share of the rows, from 0 to below 1."
            )
        check_vision_cache(self)
        if self.tuning == "full":
            refuse_full_in_half(self.weights_dtype)
        for name in ("learning_rate", "projector_learning_rate"):
            rate = getattr(self, name)
            if rate is not None and not 0 < rate < math.inf:
                option = name.replace("_", "-")
                raise UserError(f"--{option} is {rate:g}; it must be above 0.")
        if self.projector_learning_rate is not None and not self.train_projector:
            raise UserError(
                "--projector-learning-rate was given, but the projector is frozen. Set "
                "--train-projector true as well."
            )
        if not 0 <= self.lora_dropout < 1:
            raise UserError(f"--lora-dropout is {self.lora_dropout:g}; give 0 to below 1.")
        if self.lora_targets is not None and not self.lora_targets:
            raise UserError("--lora-targets names no layer. Name some, or leave it out for all.")
        check_weights(self.data_weights, 1 + len(self.more_data or ()))
        for name in OF_ADAPTERS:
            if self.tuning == "full" and getattr(self, name) != getattr(Training, name):
                raise UserError(
                    f"--{name.replace('_', '-')} means nothing under --tuning full, which trains "
                    "the weights themselves. Leave it out, or set --tuning lora."
                )
        self.check_saved(self.init_adapter is not None)
        alone = self.tuning == "qlora" or (self.tuning == "lora" and not self.save_merged)
        if self.save_dtype != "auto" and alone and not self.init_adapter:
            left_out = "--tuning qlora" if self.tuning == "qlora" else "--save-merged false"
            raise UserError(
                f"--save-dtype is that of the merged model, which {left_out} leaves out: the "
                "adapter alone is saved, in float32. Leave one of the two out."
            )
        if self.max_steps < 1 and self.max_steps != -1:
            raise UserError(f"--max-steps is {self.max_steps}; give 1 or more, or -1 for none.")
        if not math.isfinite(self.epochs):
            raise UserError(f"--epochs is {self.epochs:g}; give a number of passes.")
        if self.max_steps <= 0 and self.epochs <= 0:
            raise UserError(
                "Neither --epochs nor --max-steps is above 0: nothing would be trained."
            )

    def check_saved(self, from_adapter: bool) -> None:
        """Refuse to leave out the model where there is no adapter to save instead.

        Args:
            from_adapter: whether training starts from an adapter, which is merged.

        Raises:
            UserError: it is to be left out.
        """
        if self.save_merged or not (from_adapter or self.tuning == "full"):
            return
        reason = "--tuning full trains the model's own weights, and has no adapter to save"
        if self.tuning != "full":
            reason = (
                "training starts from an adapter, and the new one fits only the model that it "
                "was merged into"
            )
        raise UserError(
            f"--save-merged false: {reason}. model/ is the only result; leave the option out."
        )


def check_vision_cache(training: Training) -> None:
    """Refuse to keep image features that change at every step, or that processes would share.

    Raises:
        UserError: the vision tower is trained, or there are several processes.
    """
    if not training.vision_cache:
        return
    if processes.world_size() > 1:
        raise UserError(
            "--vision-cache works in one process so far; leave it off under a launcher."
        )
    if training.train_vision:
        raise UserError(
            "--vision-cache keeps what the vision tower makes of an image, and --train-vision "
            "changes that at every step. Set one of them only."
        )


def check_mixing(training: Training) -> None:
    """Refuse what does not go with mixed precision, and mixed precision from elsewhere.

    Set elsewhere it would reach training alone: proofs, reference and sampling would compute
    otherwise than the steps do.

    Raises:
        UserError: names the option or variable.
    """
    name = "ACCELERATE_MIXED_PRECISION"
    outside = os.environ.get(name, "no").lower()  # an empty one Accelerate takes for a value
    if outside != "no":
        wanted = "bf16" if outside == "bf16" else "no"
        raise UserError(
            f"{name} is {outside or 'empty'} (from the environment, or the launcher's "
            "configuration), which proofs and reference would not see. Set it to no "
            f"(`mixed_precision: 'no'` in the configuration), and give --mixed-precision {wanted}."
        )
    if switched_on := _mixing_of_deepspeed():
        raise UserError(
            f"{os.environ[DEEPSPEED_FILE]} switches {switched_on} on, which proofs and reference "
            f'would not see. Set "enabled" of "{switched_on}" to false; with LoRA, --dtype '
            "bfloat16 keeps the frozen weights in half precision."
        )
    if training.mixed_precision == "no":
        return
    reason = None
    if training.mixed_precision == "fp16":
        reason = "float16 needs its gradients scaled, which the loops here do not do. Set bf16"
    elif training.tuning == "qlora":
        reason = "weights of four bits compute in --dtype. Leave it out, or set --tuning lora"
    elif training.dtype == "bfloat16" and training.tuning == "full":
        reason = "it trains weights in float32, not bfloat16. Leave one of the two out"
    elif training.dtype not in ("auto", "float32", "bfloat16"):
        reason = f"it computes in bfloat16, not {training.dtype}. Leave one of the two out"
    elif os.environ.get("ACCELERATE_USE_DEEPSPEED", "").lower() == "true":
        reason = "DeepSpeed switches it off. Use FSDP2 (configs/), or leave it out"
    if reason:
        raise UserError(f"--mixed-precision {training.mixed_precision}: {reason}.")


def _mixing_of_deepspeed() -> str | None:
    """The half precision that the launcher's DeepSpeed file switches on; None if it does not."""
    path = Path(os.environ.get(DEEPSPEED_FILE) or "none")
    if os.environ.get("ACCELERATE_USE_DEEPSPEED", "").lower() != "true" or not path.is_file():
        return None
    content = read_json(path)
    for name in ("bf16", "bfloat16", "fp16") if isinstance(content, dict) else ():
        section = content.get(name)
        if isinstance(section, dict) and section.get("enabled") is True:
            return name
    return None
