"""How many floating-point operations the predictor takes, from its sizes and numbers of tokens.

Matrix products only, a multiplication with its addition counted as two; norms, softmaxes, rotary
turns and the embedding are left out. Attention is counted as it is executed: in a causal pass a
token meets itself and those before it, half of the square.
"""

import re

from lras.config import PredictorConfig


def block_parameters(cfg: PredictorConfig) -> int:
    """Weights of all blocks that every token is multiplied with."""
    hidden = int(cfg.mlp_ratio * cfg.dim)
    return cfg.num_layers * (4 * cfg.dim**2 + 2 * cfg.dim * hidden)


def attention_flops(cfg: PredictorConfig, pairs: int) -> int:
    """Scores and mixtures of ``pairs`` of a query and a key, in all blocks and heads."""
    return 4 * cfg.dim * cfg.num_layers * pairs


def extend_flops(cfg: PredictorConfig, new: int, given: int = 0) -> int:
    """One row: ``new`` tokens, causal among themselves, after ``given`` ones."""
    pairs = new * given + new * (new + 1) // 2
    return 2 * block_parameters(cfg) * new + attention_flops(cfg, pairs)


def read_flops(cfg: PredictorConfig, asked: int, group: int, given: int) -> int:
    """One row: ``asked`` groups of ``group`` tokens; each sees what is given, and its own group.

    The scores of a group are few and computed whole, those of the future too. Without the head.
    """
    tokens = asked * group
    pairs = tokens * given + tokens * group
    return 2 * block_parameters(cfg) * tokens + attention_flops(cfg, pairs)


def head_flops(cfg: PredictorConfig, rows: int, columns: int | None = None) -> int:
    """Logits of ``rows`` hidden states over ``columns`` (None: the codes)."""
    return 2 * cfg.dim * rows * (cfg.num_codes if columns is None else columns)


def group_tokens(cfg: PredictorConfig, frame: int) -> int:
    """Tokens of one patch of a frame."""
    return cfg.codes_per_patch + int(frame == 1 or cfg.frame0_pointers)


def prediction_tokens(
    cfg: PredictorConfig, patches: int, num_revealed: int, codes_read: int
) -> int:
    """Tokens that ``FramePredictor.read_patches`` runs to ask all hidden patches of frame 1."""
    given = patches * group_tokens(cfg, 0) + num_revealed * group_tokens(cfg, 1)
    return given + (patches - num_revealed) * codes_read


def prediction_flops(cfg: PredictorConfig, patches: int, num_revealed: int, codes_read: int) -> int:
    """Of these tokens, with logits of the codes. A traced point naively takes two predictions."""
    given = patches * group_tokens(cfg, 0) + num_revealed * group_tokens(cfg, 1)
    hidden = patches - num_revealed
    reading = read_flops(cfg, hidden, codes_read, given)
    return extend_flops(cfg, given) + reading + head_flops(cfg, hidden * codes_read)


def training_flops(
    cfg: PredictorConfig, placed: int, kept: int, head_rows: int, full_square: bool = False
) -> int:
    """Forward and backward of one training sequence; the backward counts twice the forward.

    ``placed`` and ``kept``: patches of frames 0 and 1; ``head_rows``: entries the head tells apart.
    The head meets the contents of frame 1 alone, as it is executed. ``full_square`` counts every
    pair of tokens, as most published figures of utilization do, and not only those that attend.
    What recomputation adds is left out: it is no progress.
    """
    tokens = placed * group_tokens(cfg, 0) + kept * group_tokens(cfg, 1)
    forward = extend_flops(cfg, tokens)
    if full_square:
        forward += attention_flops(cfg, tokens * tokens - tokens * (tokens + 1) // 2)
    return 3 * (forward + head_flops(cfg, kept * cfg.codes_per_patch, head_rows))


# Dense bfloat16 products with float32 sums, FLOP/s, of the vendor's data sheets and whitepapers
# (sparse figures halved). Whole words of the device's name; of several names the longest counts.
PEAK_FLOPS = {
    "B300": 2250e12,
    "GB300": 2500e12,
    "B200": 2250e12,
    "GB200": 2500e12,
    "H200": 989e12,
    "H200 NVL": 835e12,
    "GH200": 989e12,
    "H100": 989e12,
    "H100 NVL": 835e12,
    "H100 PCIe": 756e12,
    "A100": 312e12,
    "A40": 149.7e12,
    "A30": 165e12,
    "A10": 125e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
    "RTX A6000": 154.8e12,
    "RTX 6000 Ada": 364.2e12,
    "RTX 3080": 59.5e12,
    "RTX 3080 Ti": 68.2e12,
    "RTX 3090": 71e12,
    "RTX 3090 Ti": 80e12,
    "RTX 4070": 58.3e12,
    "RTX 4070 Ti": 80.2e12,
    "RTX 4080": 97.5e12,
    "RTX 4080 SUPER": 104.4e12,
    "RTX 4090": 165.2e12,
    "RTX 4090 D": 147.1e12,
    "RTX 5070": 61.7e12,
    "RTX 5070 Ti": 87.9e12,
    "RTX 5080": 112.6e12,
    "RTX 5090": 209.5e12,
}
# Words that make another device of a name: not one of these may be left over.
VARIANTS = {"MIG", "Laptop", "Mobile", "Max-Q", "Ti", "SUPER", "D", "NVL"}


def peak_flops(device_name: str) -> float | None:
    """Dense bfloat16 FLOP/s of a GPU by its name; None for one that is not in the table.

    None also for a slice of a GPU (MIG) and for laptops, which are slower than their namesakes.

    >>> peak_flops("NVIDIA H200"), peak_flops("NVIDIA H100 PCIe"), peak_flops("a CPU")
    (989000000000000.0, 756000000000000.0, None)
    """
    found = [name for name in PEAK_FLOPS if re.search(rf"\b{name}\b", device_name)]
    if not found:
        return None
    name = max(found, key=len)
    rest = set(device_name.replace(name, "").split())
    return None if rest & VARIANTS else PEAK_FLOPS[name]
