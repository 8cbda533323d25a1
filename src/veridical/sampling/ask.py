"""`veridical ask`: one question about one image."""

from __future__ import annotations

from pathlib import Path

from veridical.data.images import open_image
from veridical.data.messages import user_message
from veridical.data.prompts import Prompt
from veridical.data.steering import parse_steer, steered
from veridical.models.model_argument import Model, name_of
from veridical.runtime.errors import UserError
from veridical.runtime.options import Loading


def ask(
    model: Model,
    image: Path,
    question: str,
    max_new_tokens: int = 128,
    temperature: float = 0.0,
    seed: int = 0,
    steer: str | None = None,
    loading: Loading = Loading(),
) -> str:
    """Ask a model one question about one image, and print the answer.

    Args:
        model: Hub name or folder of an image-text-to-text model, or `embedded`; in Python also
            a loaded policy.
        image: PNG, JPEG, WebP, BMP, GIF or TIFF file.
        question: What to ask, as a text.
        max_new_tokens: Longest answer, in tokens.
        temperature: 0 takes the most likely token each time; 1 samples as the model thinks.
        seed: Of the sampling noise; without effect at temperature 0.
        steer: Ask for attributes, for a model trained by `train steerlm`: all-4, or
            "Helpfulness:4,Correctness:4,Coherence:4,Complexity:2,Verbosity:1".
        loading: How the model is loaded.

    Returns:
        The answer that was printed.

    Raises:
        UserError: the image or the model cannot be loaded, or an option makes no sense.
    """
    if not question.strip():
        raise UserError("the question is empty. Put it in quotes after the image.")
    if max_new_tokens < 1:
        raise UserError(f"--max-new-tokens has to be at least 1, not {max_new_tokens}.")
    if temperature < 0:
        raise UserError(f"--temperature has to be at least 0, not {temperature}.")
    if steer is not None:
        parse_steer(steer)
    picture = open_image(image)

    # Imported here, so that a wrong path is told at once and not after the model's libraries.
    from veridical.models.load import load_placed
    from veridical.models.refused_rows import RefusedRowsError
    from veridical.models.rendering import RefusedRowError
    from veridical.sampling import Decoding, Request, respond

    policy = load_placed(model, loading, loading.template)
    prompt = steered([user_message(question)], steer, policy.processor)
    request = Request(Prompt("ask", [picture], prompt))
    decoding = Decoding(max_new_tokens=max_new_tokens, temperature=temperature, seed=seed)
    try:
        answer = respond(policy, [request], decoding, label="")[0].text.strip()
    except RefusedRowError as error:
        raise UserError(f"the question cannot be asked: {error}.") from error
    except RefusedRowsError as error:
        raise UserError(f"{image} can't be used by {name_of(model)}: {error.reason}.") from error
    print(answer)
    return answer
