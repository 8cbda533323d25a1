"""Proofs in words: a line for each, and what to change where one fails."""

from __future__ import annotations

from collections.abc import Sequence

from veridical.checks.proofs import Proof
from veridical.runtime.errors import UserError

ADVICE: dict[str, str] = {
    "start": "The reference is not the policy that training starts from. Declare the right "
    "reference, or give the adapter to start from as --init-adapter so that both get it.",
    "image_matters": "The answers' log-probabilities do not change with the image. Check "
    "that the rows' images are the right ones and that the model is a vision-language model.",
    "placeholders": "The prompt's image placeholders and the image features differ in number. "
    "Use the processor that was saved with this model, and a larger --max-length.",
    "batch_invariance": "A row's numbers depend on the rows beside it. Set --share-prefix false; "
    "if that does not help, use --batch-size 1 or another --dtype.",
    "path_parity": "Our numbers differ from those of the stock processor and forward. "
    "Set --share-prefix false; if that does not help, this model is not supported yet.",
}


def print_proofs(proofs: Sequence[Proof]) -> None:
    """A line for each."""
    for proof in proofs:
        print(f"  proof {proof.name}: {verdict(proof)} ({proof.detail})")
    if any(proof.blind for proof in proofs):
        print(
            "  A proof that can't tell stops no run: rounding hides what it looks for. A float32 "
            "copy could tell, where memory allows; --share-prefix false is the safe layout."
        )


def verdict(proof: Proof) -> str:
    """What a proof's figures say, in a few words."""
    if not proof.applicable:
        return "does not apply"
    word = "CAN'T TELL" if proof.blind else "holds" if proof.passed else "FAILS"
    return f"{word}: {figures(proof.name, proof.value, proof.limit, proof.unit)}"


def figures(name: str, value: float, limit: float, unit: str) -> str:
    """What was measured, and on which side of the limit it has to be."""
    return f"{value:.2g} {unit}, has to be {bound(name)} {limit:.2g}"


def bound(name: str) -> str:
    """The side of a proof's limit on which its value has to be."""
    return "above" if name == "image_matters" else "at most"


def require(proofs: Sequence[Proof]) -> None:
    """Stop the run if a proof fails.

    Raises:
        UserError: names the first proof that fails, its figures and what to change.
    """
    failed = next((proof for proof in proofs if not proof.passed), None)
    if failed is not None:
        raise UserError(
            f"The proof '{failed.name}' fails: "
            f"{figures(failed.name, failed.value, failed.limit, failed.unit)} ({failed.detail}).\n"
            f"{ADVICE[failed.name]}"
        )
