"""What tracing asks of a model: codes in, code distributions out. It sees nothing else of it."""

from typing import Any, Literal, Protocol, runtime_checkable

from jaxtyping import Bool, Float, Int
from torch import Tensor

ReadOut = Literal["all", "first"]


@runtime_checkable
class NextFrameModel(Protocol):
    """A frozen predictor of frame 1, given frame 0 and some patches of frame 1."""

    patch_px: int
    code_px: int

    def encode(
        self, frames: Float[Tensor, "batch 3 height width"]
    ) -> Int[Tensor, "batch code_rows code_cols"]:
        """Codes on the cell grid. Strictly local: a code depends on its own cell's pixels only.

        A model whose codes see more, at most their patch, says so by ``painted_px``.
        """
        ...

    def frame1_logits(
        self,
        codes0: Int[Tensor, "batch code_rows code_cols"],
        codes1: Int[Tensor, "batch code_rows code_cols"],
        reveal: Bool[Tensor, "batch patches"],
        order0: Int[Tensor, "batch patches"],
        order1: Int[Tensor, "batch patches"],
        read_out: ReadOut,
    ) -> Float[Tensor, "batch rows cols vocab"]:
        """Unnormalized log-probabilities over the content vocabulary, or over a longer one.

        ``codes1`` are the true codes of frame 1; the model uses those the format lets it see: the
        revealed patches and, with ``all``, the preceding codes of the same patch. ``order0`` and
        ``order1`` are the permutations of patches in which groups are laid in the sequence; the
        revealed patches of ``order1`` come first, in this order.

        Returns:
            ``all``: rows, cols = cell grid. ``first``: each patch's first (top-left) code only,
            rows, cols = patch grid. Rows of revealed patches are unspecified, even NaN.
        """
        ...

    def expected_rgb(
        self, logits: Float[Tensor, "batch rows cols vocab"]
    ) -> Float[Tensor, "batch 3 height width"]:
        """Probability-weighted mean of the codes' decoded cells; ``all`` logits only."""
        ...


@runtime_checkable
class ForkingModel(NextFrameModel, Protocol):
    """A model whose reading can be forked: what was read once is continued in several ways.

    ``given`` is opaque here: it tells its ``length`` in tokens, ``a + b`` is b read after a (where
    b was made by ``extend``), and ``b.since(a)`` is what ``extend`` added to a.
    """

    forks: bool  # False: frame1_logits reads in another way, and only that counts
    token_bytes: int  # memory that a token takes while it is held and read
    num_columns: int  # length of a row of logits

    def extend(
        self,
        given: Any | None,
        codes: Int[Tensor, "batch code_rows code_cols"],
        patches: Int[Tensor, "batch kept"],
        frame: int,
    ) -> Any:
        """Read the groups of ``patches`` of a frame after what is given; None = nothing yet.

        A given of one row serves any number of rows, one of n rows serves a multiple of n, each
        row as many consecutive ones.
        """
        ...

    def read(
        self,
        given: Any,
        codes1: Int[Tensor, "batch code_rows code_cols"],
        asked: Int[Tensor, "batch asked"],
        read_out: ReadOut,
    ) -> Float[Tensor, "batch asked read vocab"]:
        """Logits of the ``asked`` patches of frame 1, as ``frame1_logits`` would give them."""
        ...
