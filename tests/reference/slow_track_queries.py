"""What each query mode asks, in plain loops over points and frames."""


def asked(visible, mode):
    """(point, query frame, target frame) of everything that is asked of one video."""
    found = []
    for point, seen in enumerate(visible):
        frames = [t for t, shown in enumerate(seen) if shown]
        for q in frames[:1] if mode == "first" else frames:
            if mode == "strided" and q % 5:
                continue
            for t in range(len(seen)):
                wanted = {"first": t > q, "strided": t != q, "cfg": t == q + 5}
                if wanted[mode]:
                    found.append((point, q, t))
    return found
