"""Public data sets of optical flow: each module lists the pairs of one as ``PairFiles``."""
