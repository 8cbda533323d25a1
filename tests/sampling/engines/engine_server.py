"""A stand-in for an engine: `python engine_server.py MODEL_FOLDER`, in a process of its own.

It loads adapters that it is told of, sees the images that it is sent, and answers with token ids
and with the name of the adapter that it used. `POST /v1/lie` says what it does wrong from then on:
`none`, `no-ids`, `stale`, `unnamed`, `other-prompt` or `no-end`. Like vLLM it refuses to load
a name that it has, and to unload one that it has not; `POST /v1/loaded` lists them. It writes its
address to standard output.
"""

from __future__ import annotations

import base64
import io
import json
import sys
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import torch
from peft import PeftModel
from PIL import Image

from veridical.data.messages import Block, Message, text_block
from veridical.data.prompts import Prompt
from veridical.models.load import load_policy
from veridical.models.policy import Policy, end_token_ids
from veridical.models.processing import process
from veridical.models.prompt_texts import render_prompt
from veridical.sampling import Decoding, Request
from veridical.sampling.rollouts import roll_out


class Served:
    """A base with the adapters that were loaded."""

    def __init__(self, folder: str) -> None:
        self.folder, self.lie = folder, "none"
        self.adapters: dict[str, Policy] = {}
        self.told_once = False

    def load(self, name: str, path: str) -> None:
        base = load_policy(self.folder)
        model = PeftModel.from_pretrained(base.model, path).merge_and_unload()
        self.adapters[name] = replace(base, model=model.eval())

    def answer(self, asked: dict[str, Any]) -> dict[str, Any]:
        name = asked["model"]
        policy = self.adapters[name]
        images: list[Image.Image] = []
        prompt: list[Message] = []
        for message in asked["messages"]:
            content = message["content"]
            blocks: list[dict[str, Any]] = content
            if isinstance(content, str):
                blocks = [{"type": "text", "text": content}]
            kept: list[Block] = []
            for block in blocks:
                if block["type"] == "text":
                    kept.append(text_block(block["text"]))
                    continue
                data = base64.b64decode(block["image_url"]["url"].split(",", 1)[1])
                images.append(Image.open(io.BytesIO(data)).convert("RGB"))
                kept.append({"type": "image"})
            prompt.append({"role": message["role"], "content": kept})
        request = Request(Prompt("served", images, prompt))
        decoding = Decoding(asked["max_tokens"], asked["temperature"], asked["seed"])
        ((said,),) = roll_out(policy, [request], decoding)
        text = render_prompt(policy, prompt)
        ids = process(policy, [images], [text], "right")["input_ids"][0].tolist()
        assert asked["return_token_ids"] is True
        ends = end_token_ids(policy)
        tokens = list(said.token_ids)
        choice: dict[str, Any] = {
            "index": 0,
            "finish_reason": "length" if said.stop_reason == "length" else "stop",
            "message": {"role": "assistant", "content": said.text},
            "token_ids": tokens,
        }
        # Told for the test alone: what the server itself thought.
        found = {"prompt_token_ids": ids, "server_logps": said.logps, "model": name}
        if self.lie == "no-ids":
            del choice["token_ids"]
        elif self.lie == "stale":
            found["model"] = name.rpartition("-")[0] + "-0"
        elif self.lie == "unnamed":
            found["model"] = "m"
        elif self.lie == "other-prompt":
            found["prompt_token_ids"] = ids[:-1]
        elif self.lie == "other-prompt-later":
            found["prompt_token_ids"] = ids[:-1] if self.told_once else ids
            self.told_once = True
        elif self.lie == "no-prompt":
            del found["prompt_token_ids"]
        elif self.lie == "no-end":
            choice["finish_reason"] = "stop"
            choice["token_ids"] = [token for token in tokens if token not in ends]
        return {"id": "1", "object": "chat.completion", "created": 0, "choices": [choice], **found}


def main() -> None:
    torch.set_num_threads(1)
    served = Served(sys.argv[1])

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            found: Any = {}
            status = 200
            if self.path.endswith("/lie"):
                served.lie = body["lie"]
            elif self.path.endswith("/unload_lora_adapter"):
                known = served.adapters.pop(body["lora_name"], None)
                status = 404 if known is None else 200
            elif self.path.endswith("/load_lora_adapter"):
                status = 400 if body["lora_name"] in served.adapters else 200
                served.load(body["lora_name"], body["lora_path"])
            elif self.path.endswith("/loaded"):
                found = sorted(served.adapters)
            else:
                found = served.answer(body)
            text = json.dumps(found).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: Any) -> None:
            """Quietly."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    print(f"http://127.0.0.1:{server.server_address[1]}/v1", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
