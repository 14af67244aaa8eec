#!/usr/bin/env python3
"""Times training steps of the PyTorch implementation of MAE in Hugging Face transformers (ViTMAEForPreTraining).

It computes what the official code does: all patches are embedded, then a quarter is kept; the decoder runs over all
positions, and its head and the loss cover all patches, of which the visible ones get weight 0. A step is the forward,
the backward and AdamW with the two decay groups of the official code (nothing of one dimension and no bias is
decayed); gradients are set to None before it. Images are noise, drawn before the clock starts; the first two steps are
dropped. The official loop also computes the gradient's norm, which is left out here.

Prints one JSON object: seconds of each step and their median, the most resident memory (VmHWM), that before the model
was made (the interpreter and its libraries), and versions. `ci/peers/run` calls it in turn with `mask-image bench`;
by itself it needs torch, transformers 4.57 and numpy:

  OMP_WAIT_POLICY=passive python ci/peers/mae_vit_b.py --batch 8 --threads 2
"""
import argparse, json, os, platform, statistics, time

import torch
import transformers
from transformers import ViTMAEConfig, ViTMAEForPreTraining


def kib(key):
    """A figure of this process in bytes, of those that Linux states in kB."""
    with open("/proc/self/status", encoding="ascii") as status:
        for line in status:
            if line.startswith(key + ":"):
                return 1024 * int(line.split()[1])
    return None


def options():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=6, help="measured ones, after two that are dropped")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fused", action="store_true", help="AdamW in libtorch's fused kernel, not the default loop")
    parser.add_argument("--compile", action="store_true", help="the model through torch.compile")
    for name, value in [("image", 224), ("patch", 16), ("width", 768), ("depth", 12), ("heads", 12),
                        ("decoder-width", 512), ("decoder-depth", 8), ("decoder-heads", 16)]:
        parser.add_argument(f"--{name}", type=int, default=value)
    return parser.parse_args()


def groups(model, decay):
    """The official code's two groups, those of timm's param_groups_weight_decay."""
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    plain = [p for name, p in trained if p.ndim == 1 or name.endswith(".bias")]
    rest = [p for name, p in trained if not (p.ndim == 1 or name.endswith(".bias"))]
    return [{"params": plain, "weight_decay": 0.0}, {"params": rest, "weight_decay": decay}]


def main():
    wanted = options()
    torch.set_num_threads(wanted.threads)
    torch.manual_seed(wanted.seed)
    before = kib("VmHWM")
    config = ViTMAEConfig(
        hidden_size=wanted.width, num_hidden_layers=wanted.depth, num_attention_heads=wanted.heads,
        intermediate_size=4 * wanted.width, image_size=wanted.image, patch_size=wanted.patch, layer_norm_eps=1e-6,
        decoder_hidden_size=wanted.decoder_width, decoder_num_hidden_layers=wanted.decoder_depth,
        decoder_num_attention_heads=wanted.decoder_heads, decoder_intermediate_size=4 * wanted.decoder_width,
        mask_ratio=0.75, norm_pix_loss=True, attn_implementation="sdpa")
    model = ViTMAEForPreTraining(config).train()
    optimiser = torch.optim.AdamW(groups(model, 0.05), lr=1e-4, betas=(0.9, 0.95), fused=wanted.fused or None)
    run = torch.compile(model) if wanted.compile else model
    seconds, processor, loss = [], [], None
    for _ in range(wanted.steps + 2):
        images = torch.randn(wanted.batch, 3, wanted.image, wanted.image)
        begun, worked = time.perf_counter(), time.process_time()
        optimiser.zero_grad(set_to_none=True)
        loss = run(images).loss
        loss.backward()
        optimiser.step()
        seconds.append(time.perf_counter() - begun)
        processor.append(time.process_time() - worked)
    print(json.dumps({
        "seconds_a_step": statistics.median(seconds[2:]),
        "step_seconds": seconds[2:],
        "step_processor_seconds": processor[2:],
        "peak_memory_mb": kib("VmHWM") / 1e6,
        "memory_before_the_model_mb": before / 1e6,
        "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "loss": loss.item(), "threads": torch.get_num_threads(), "batch": wanted.batch,
        "optimiser": "AdamW, fused" if wanted.fused else "AdamW, default",
        "compiled": wanted.compile, "attention": model.config._attn_implementation,
        "torch": torch.__version__, "transformers": transformers.__version__, "python": platform.python_version(),
    }))


if __name__ == "__main__":
    main()
