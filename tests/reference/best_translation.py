"""Best single translation by trying every shift and every pixel, one after the other."""


def best_shift(frame0, frame1, max_shift):
    """(dx, dy); frames as nested lists [channel][row][column]. The shortest of equal ones wins."""
    height, width = len(frame0[0]), len(frame0[0][0])
    tried = []
    for dy in range(-max_shift, max_shift + 1):
        for dx in range(-max_shift, max_shift + 1):
            gaps = [
                abs(frame0[c][y][x] - frame1[c][y + dy][x + dx])
                for c in range(len(frame0))
                for y in range(height)
                for x in range(width)
                if 0 <= y + dy < height and 0 <= x + dx < width
            ]
            tried.append((sum(gaps) / len(gaps), dx * dx + dy * dy, dy, dx))
    _, _, dy, dx = min(tried)
    return dx, dy
