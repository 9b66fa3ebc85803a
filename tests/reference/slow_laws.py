"""The law y = floor + a x^-b by looking at every floor and exponent of a grid, refined."""

import math

import numpy as np


def slow_power_law(x, y, delta: float, rounds: int = 14) -> tuple[float, float, float, float]:
    """(loss, floor, a, b) of the least sum of Huber losses of log y, x and y plain lists."""
    floors = np.linspace(0, 0.999 * min(y), 13)
    powers = np.linspace(-1, 1, 21)
    scales = np.linspace(-2, 2, 17)  # of log a, from what the middle of the data asks for
    middle = math.exp(sum(map(math.log, x)) / len(x))
    best = (math.inf, 0.0, 0.0, 0.0)
    for _ in range(rounds):
        for floor in floors:
            for power in powers:
                for scale in scales:
                    loss = 0.0
                    for place, value in zip(x, y, strict=True):
                        law = floor + math.exp(scale) * (place / middle) ** -power
                        miss = abs(math.log(value / law))
                        loss += miss**2 / 2 if miss <= delta else delta * (miss - delta / 2)
                    best = min(best, (loss, floor, scale, power))
        _, floor, scale, power = best
        floors = np.clip(floor + (floors[1] - floors[0]) * np.linspace(-1.5, 1.5, 7), 0, min(y))
        powers = power + (powers[1] - powers[0]) * np.linspace(-1.5, 1.5, 7)
        scales = scale + (scales[1] - scales[0]) * np.linspace(-1.5, 1.5, 7)
    loss, floor, scale, power = best
    return loss, floor, math.exp(scale) * middle**power, power
