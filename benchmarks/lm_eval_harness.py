"""lm-evaluation-harness on prepared prompts, for benchmarks/throughput.py.

    python -m benchmarks.lm_eval_harness FOLDER BATCH_SIZE MAX_NEW_TOKENS REPEATS

It needs `lm_eval`, and nothing of this project. FOLDER holds a checkpoint and texts.json, the
rendered prompts. The last line printed is JSON: the seconds of each run, and the outputs.
"""

import json
import sys
import time
from pathlib import Path

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM


def main(folder: str, size: str, max_new_tokens: str, repeats: str) -> None:
    """Answer all prompts, warm, several times."""
    texts = json.loads((Path(folder) / "texts.json").read_text())
    options = {"until": ["<|im_end|>"], "max_gen_toks": int(max_new_tokens), "do_sample": False}
    device, dtype = ("cuda", "bfloat16") if torch.cuda.is_available() else ("cpu", "float32")
    model = HFLM(pretrained=folder, dtype=dtype, device=device, batch_size=int(size))
    asked = [Instance("generate_until", {}, (text, options), i) for i, text in enumerate(texts)]
    model.generate_until(asked[:2], disable_tqdm=True)
    seconds = []
    for _ in range(int(repeats)):
        start = time.perf_counter()
        outputs = model.generate_until(asked, disable_tqdm=True)
        seconds.append(time.perf_counter() - start)
    print("\n" + json.dumps({"seconds": seconds, "outputs": outputs}))


if __name__ == "__main__":
    main(*sys.argv[1:])
