"""Token ids: contents first, then the pointers of frame 0, then those of frame 1.

With 65,536 codes and 1,024 patches this is the published layout (67,584 ids).
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Vocab:
    """Half-open id ranges; a pointer's id is its frame's range start plus the patch index."""

    num_codes: int
    num_patches: int

    @property
    def pointers0(self) -> int:
        """First pointer id of frame 0."""
        return self.num_codes

    @property
    def pointers1(self) -> int:
        """First pointer id of frame 1."""
        return self.num_codes + self.num_patches

    @property
    def size(self) -> int:
        return self.num_codes + 2 * self.num_patches

    def pointer_base(self, frame: int) -> int:
        """First pointer id of ``frame`` (0 or 1)."""
        return (self.pointers0, self.pointers1)[frame]
