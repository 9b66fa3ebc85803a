"""The pixels: scenes, videos, shards, readers. Code only; imports nothing of ours."""
