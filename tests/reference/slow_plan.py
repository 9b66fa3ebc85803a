"""The order of samples one at a time, with Python's whole numbers: what data.plan must say."""

import hashlib

MASK = 2**64 - 1


def key_of(*parts):
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return sum(byte << (8 * place) for place, byte in enumerate(digest[:8]))


def scramble(value):
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
    return value ^ (value >> 31)


def permuted(position, length, key):
    if length <= 1024:
        numbers = sorted(range(length), key=lambda n: scramble(scramble(n) ^ key))
        return numbers[position]
    half = 1
    while 4**half < length:
        half += 1
    while True:
        left, right = divmod(position, 2**half)
        for each in range(1, 7):
            mixed = scramble(right ^ scramble((key + each) & MASK)) % 2**half
            left, right = right, left ^ mixed
        position = left * 2**half + right
        if position < length:
            return position


def epoch_order(shard_samples, seed, epoch, window):
    """The samples of a folder in the order of an epoch."""
    total = sum(shard_samples)
    if window is None:
        return [permuted(p, total, key_of(seed, epoch)) for p in range(total)]
    key = key_of(seed, epoch, "shards")
    shards = sorted(range(len(shard_samples)), key=lambda s: scramble(scramble(s) ^ key))
    row = [sum(shard_samples[:s]) + n for s in shards for n in range(shard_samples[s])]
    order = []
    for start in range(0, total, window):
        part = row[start : start + window]
        key = key_of(seed, epoch, "window", start // window)
        order += [part[permuted(p, len(part), key)] for p in range(len(part))]
    return order


def batches(shard_samples, global_batch, streams, seed, window, num_steps):
    """(epoch, sample) of every row of the first steps, from a single folder."""
    total, per_step = sum(shard_samples), global_batch // streams
    stride = total // streams
    steps_per_epoch = stride // per_step
    found = []
    for step in range(num_steps):
        epoch, step_in_epoch = divmod(step, steps_per_epoch)
        order = epoch_order(shard_samples, f"{seed}/0", epoch, window)
        rows = []
        for stream in range(streams):
            own = order[stream * stride : (stream + 1) * stride]
            taken = own[step_in_epoch * per_step : (step_in_epoch + 1) * per_step]
            rows += [(epoch, sample) for sample in taken]
        found.append(rows)
    return found
