"""Silhouettes of bags, seen from the front."""

import numpy as np

from catalog_batch.demo.outlines import (
    Layer,
    Paint,
    arc,
    mirrored,
    ribbon,
    seam,
    smooth,
    superellipse,
    symmetric,
)


def backpack(rng: np.random.Generator) -> list[Layer]:
    """Draw a backpack: shoulder straps, a grab loop, a flap and a zipped front pocket."""
    width, height, pocket = (
        rng.uniform(0.5, 0.6),
        rng.uniform(0.72, 0.82),
        rng.uniform(0.24, 0.32),
    )
    strap_line = smooth([(0.4, -0.55), (0.82, -0.1), (0.8, 0.4), (0.45, 0.78)], closed=False)
    strap = ribbon(strap_line, rng.uniform(0.1, 0.15))
    layers = [Layer(strap, Paint.TRIM), Layer(mirrored(strap), Paint.TRIM)]
    layers += [Layer(arc(0.0, 0.1 - height, 0.17, 0.2, 180.0, 360.0, 0.08), Paint.TRIM)]
    layers += [Layer(superellipse(0.0, 0.12, width, height, rng.uniform(3.0, 4.0)))]
    layers += [Layer(arc(0.0, 0.12, width - 0.1, height - 0.12, 190.0, 350.0, 0.05), Paint.METAL)]
    layers += [Layer(superellipse(0.0, 0.5, width - 0.12, pocket, 4.0), Paint.SHADE)]
    zip_y = 0.5 - pocket + 0.14
    layers += [Layer(ribbon([(0.14 - width, zip_y), (width - 0.14, zip_y)], 0.05), Paint.METAL)]
    return [*layers, Layer(superellipse(0.0, -0.16, 0.12, 0.07, 4.0), Paint.TRIM)]


def tote(rng: np.random.Generator) -> list[Layer]:
    """Draw a tote: an open trapezoid with two long handles, perhaps a print."""
    mouth, base, reach = (rng.uniform(0.5, 0.64), rng.uniform(0.5, 0.72), rng.uniform(0.62, 0.8))
    rear = arc(0.06, -0.12, 0.26, reach + 0.04, 180.0, 360.0, 0.07)
    front = arc(-0.02, 0.05, 0.3, reach, 180.0, 360.0, rng.uniform(0.07, 0.1))
    layers = [Layer(rear, Paint.SHADE)]
    layers += [Layer(symmetric([(mouth, -0.16), (base, 0.9)]))]
    layers += [Layer(symmetric([(mouth, -0.17), (mouth + 0.01, -0.06)]), Paint.SHADE)]
    layers += [Layer(front, Paint.TRIM)]
    if rng.random() < 0.5:
        layers.append(Layer(superellipse(0.0, 0.42, 0.24, 0.22, rng.uniform(1.2, 5.0)), Paint.TRIM))
    return [*layers, seam([(-base, 0.8), (base, 0.8)], 0.03)]


def suitcase(rng: np.random.Generator) -> list[Layer]:
    """Draw a suitcase: a ribbed hard shell, a telescopic handle, wheels."""
    width, top, low = rng.uniform(0.44, 0.56), rng.uniform(-0.5, -0.36), 0.8
    middle, half = (top + low) / 2, (low - top) / 2
    layers = [
        Layer(superellipse(x, low + 0.08, 0.09, 0.1), Paint.METAL)
        for x in (-width + 0.1, width - 0.1)
    ]
    layers += [Layer(ribbon([(x, -0.93), (x, top + 0.1)], 0.05), Paint.METAL) for x in (-0.2, 0.2)]
    layers += [Layer(ribbon([(-0.26, -0.93), (0.26, -0.93)], 0.1), Paint.TRIM)]
    layers += [Layer(superellipse(0.0, middle, width, half, 7.0))]
    ribs = np.linspace(-0.7, 0.7, int(rng.integers(4, 7))) * width
    layers += [seam([(x, top + 0.12), (x, low - 0.12)], 0.035) for x in ribs]
    layers += [Layer(arc(0.0, top + 0.02, 0.16, 0.1, 180.0, 360.0, 0.06), Paint.TRIM)]
    return [*layers, Layer(superellipse(0.0, middle - 0.1, 0.08, 0.1, 5.0), Paint.METAL)]
