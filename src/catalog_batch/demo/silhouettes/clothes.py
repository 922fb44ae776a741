"""Silhouettes of clothes, seen from the front."""

import numpy as np

from catalog_batch.demo.outlines import (
    Layer,
    Paint,
    arc,
    mirrored,
    polygon,
    ribbon,
    seam,
    superellipse,
    symmetric,
)


def t_shirt(rng: np.random.Generator) -> list[Layer]:
    """Draw a T-shirt: short sleeves, a round neck, perhaps a print."""
    width, hem, sleeve = (rng.uniform(0.42, 0.54), rng.uniform(0.75, 0.92), rng.uniform(0.8, 1.0))
    body = [(0.2, -0.8), (0.5, -0.72), (sleeve, -0.3), (sleeve - 0.2, -0.04), (width, -0.25)]
    shirt = Layer(symmetric([*body, (width + 0.02, hem)]))
    neck = Layer(superellipse(0.0, -0.77, 0.2, 0.09), Paint.SHADE)
    collar = Layer(arc(0.0, -0.78, 0.22, 0.15, 0.0, 180.0, 0.07), Paint.TRIM)
    layers = [shirt, neck, collar, seam([(-width, hem - 0.08), (width, hem - 0.08)])]
    layers += [seam([(0.5, -0.7), (width, -0.25)]), seam([(-0.5, -0.7), (-width, -0.25)])]
    if rng.random() < 0.4:
        layers.append(Layer(superellipse(0.0, -0.05, 0.22, 0.2, rng.uniform(1.5, 5.0)), Paint.TRIM))
    return layers


def jacket(rng: np.random.Generator) -> list[Layer]:
    """Draw a jacket: long sleeves, an open collar, a zip or buttons, two pockets."""
    width, hem, cuff = (rng.uniform(0.42, 0.5), rng.uniform(0.72, 0.9), rng.uniform(0.5, 0.68))
    body = [(0.16, -0.88), (0.46, -0.76), (0.62, -0.55), (0.92, cuff), (0.7, cuff + 0.08)]
    cuffs = polygon([(0.9, cuff - 0.1), (0.93, cuff), (0.7, cuff + 0.08), (0.66, cuff - 0.03)])
    collar = polygon([(0.0, -0.5), (0.14, -0.9), (0.3, -0.84), (0.22, -0.52)])
    pocket = seam([(0.16, 0.42), (0.34, 0.3)], 0.05)
    layers = [Layer(symmetric([*body, (width, -0.12), (width, hem)]))]
    layers += [Layer(cuffs, Paint.TRIM), Layer(mirrored(cuffs), Paint.TRIM)]
    layers += [seam([(width, -0.12), (0.48, -0.7)]), seam([(-width, -0.12), (-0.48, -0.7)])]
    layers += [Layer(polygon([(-0.16, -0.9), (0.16, -0.9), (0.0, -0.5)]), Paint.SHADE)]
    layers += [Layer(collar, Paint.TRIM), Layer(mirrored(collar), Paint.TRIM)]
    layers += [pocket, Layer(mirrored(pocket.points), Paint.SEAM, outlined=False)]
    return layers + _fastening(rng, hem)


def _fastening(rng: np.random.Generator, hem: float) -> list[Layer]:
    """Close a jacket with a zip or with buttons."""
    if rng.random() < 0.5:
        return [Layer(ribbon([(0.0, -0.5), (0.0, hem)], 0.06), Paint.METAL)]
    heights = np.linspace(-0.38, hem - 0.14, 5)
    buttons = [Layer(superellipse(0.06, y, 0.04, 0.04), Paint.METAL) for y in heights]
    return [seam([(0.0, -0.5), (0.0, hem)], 0.03), *buttons]


def dress(rng: np.random.Generator) -> list[Layer]:
    """Draw a dress: straps, a narrow waist with a belt, a wide pleated skirt."""
    waist, skirt, hem = (rng.uniform(0.17, 0.24), rng.uniform(0.5, 0.74), rng.uniform(0.82, 0.97))
    top = [(0.0, -0.58), (0.2, -0.95), (0.31, -0.95), (0.35, -0.55), (waist, -0.14)]
    bottom = [(skirt, hem - 0.06), (skirt * 0.5, hem + 0.01)]
    layers = [Layer(symmetric([*top, *bottom, (0.0, hem + 0.03)]))]
    layers += [
        seam([(waist * side, -0.1), (skirt * side * 0.9, hem - 0.05)], 0.03)
        for side in (-0.7, -0.25, 0.25, 0.7)
    ]
    belt = symmetric([(waist + 0.02, -0.2), (waist + 0.03, -0.08)])
    return [*layers, Layer(belt, Paint.TRIM)]


def trousers(rng: np.random.Generator) -> list[Layer]:
    """Draw trousers: a waistband, two legs, pockets and a fly."""
    waist, ankle, flare = (rng.uniform(0.32, 0.4), rng.uniform(0.2, 0.32), rng.uniform(0.5, 0.64))
    legs = [(waist, -0.93), (waist + 0.1, -0.4), (flare, 0.95), (flare - ankle, 0.95)]
    band = symmetric([(waist, -0.95), (waist + 0.03, -0.8)])
    layers = [Layer(symmetric([*legs, (0.015, -0.2)])), Layer(band, Paint.TRIM)]
    layers += [seam([(0.0, -0.8), (0.0, -0.2)], 0.04)]
    for side in (-1.0, 1.0):
        middle = side * (flare - ankle / 2)
        layers += [seam([(side * 0.26, -0.35), (middle, 0.93)])]
        layers += [seam([(side * 0.2, -0.78), (side * (waist + 0.06), -0.55)], 0.04)]
    return [*layers, Layer(superellipse(0.0, -0.875, 0.04, 0.04), Paint.METAL)]
