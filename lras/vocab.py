"""Token ids: contents first, then the pointers of frame 0, then those of frame 1.

With 65,536 codes and 1,024 patches this is the published layout (67,584 ids). Published models may
know more ids and places than two frames of RGB need (flow, camera poses): ``TokenRanges``.
"""

from dataclasses import dataclass

Range = tuple[int, int]  # half-open


@dataclass(frozen=True, kw_only=True)
class TokenRanges:
    """Where a published model keeps what: half-open ranges of token ids and of rows of the slot
    table (``*_places``). None = it has no such tokens. RGB needs the first five only.
    """

    contents: Range
    pointers0: Range
    pointers1: Range
    places0: Range
    places1: Range
    flow: Range | None = None
    flow_pointers: Range | None = None
    flow_places: Range | None = None
    pose: Range | None = None
    pose_pointer: Range | None = None
    pose_places: Range | None = None


@dataclass(frozen=True)
class Vocab:
    """Half-open id ranges; a pointer's id is its frame's range start plus the patch index."""

    num_codes: int
    num_patches: int
    ranges: TokenRanges | None = None  # of a published file; None = laid out without gaps

    @property
    def pointers0(self) -> int:
        """First pointer id of frame 0."""
        return self.ranges.pointers0[0] if self.ranges else self.num_codes

    @property
    def pointers1(self) -> int:
        """First pointer id of frame 1."""
        return self.ranges.pointers1[0] if self.ranges else self.num_codes + self.num_patches

    @property
    def size(self) -> int:
        """Ids that two frames of RGB need."""
        return self.num_codes + 2 * self.num_patches

    def pointer_base(self, frame: int) -> int:
        """First pointer id of ``frame`` (0 or 1)."""
        return (self.pointers0, self.pointers1)[frame]
