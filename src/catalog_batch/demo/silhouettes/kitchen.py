"""Silhouettes of kitchenware."""

import numpy as np

from catalog_batch.demo.outlines import (
    Layer,
    Paint,
    arc,
    polygon,
    ribbon,
    seam,
    smooth,
    superellipse,
)


def mug(rng: np.random.Generator) -> list[Layer]:
    """Draw a mug: a cylinder seen a little from above, with one handle."""
    top, width, foot = (rng.uniform(-0.75, -0.5), rng.uniform(0.46, 0.58), rng.uniform(0.38, 0.5))
    left, right = -0.18 - width, -0.18 + width
    base = superellipse(-0.18, 0.62, foot, 0.12)
    side = [(right, top), (-0.18 + foot, 0.62), (-0.18 - foot, 0.62), (left, top)]
    handle = arc(right - 0.08, 0.02, 0.46, 0.4, -110.0, 120.0, rng.uniform(0.12, 0.18))
    layers = [Layer(handle), Layer(base), Layer(polygon(side), outlined=False)]
    layers += [seam(side[:2], 0.03), seam(side[2:], 0.03)]
    layers += [Layer(superellipse(-0.18, top, width, 0.16))]
    layers += [Layer(superellipse(-0.18, top, width - 0.06, 0.12), Paint.SHADE)]
    band = [(left + 0.05, top + 0.22), (-0.18, top + 0.34), (right - 0.05, top + 0.22)]
    if rng.random() < 0.6:
        layers.append(Layer(ribbon(smooth(band, closed=False), 0.1), Paint.TRIM))
    return layers


def pan(rng: np.random.Generator) -> list[Layer]:
    """Draw a frying pan from above: a round body and one long handle."""
    radius, width = rng.uniform(0.52, 0.6), rng.uniform(0.13, 0.2)
    start = radius - 0.42
    grip = superellipse((start + 0.98) / 2, 0.0, (0.98 - start) / 2, width / 2, 4.0)
    layers = [Layer(grip, Paint.TRIM), Layer(superellipse(0.9, 0.0, 0.04, 0.03), Paint.HOLE)]
    layers += [Layer(superellipse(-0.38, 0.0, radius, radius))]
    layers += [Layer(superellipse(-0.38, 0.0, radius - 0.1, radius - 0.1), Paint.SHADE)]
    layers += [Layer(arc(-0.38, 0.0, radius - 0.2, radius - 0.2, 0.0, 360.0, 0.025), Paint.SEAM)]
    rivets = [superellipse(start + 0.08, y, 0.03, 0.03) for y in (-0.04, 0.04)]
    return layers + [Layer(rivet, Paint.METAL) for rivet in rivets]


def teapot(rng: np.random.Generator) -> list[Layer]:
    """Draw a teapot: a round belly, a spout, a handle and a lid with a knob."""
    rx, ry, lift = (rng.uniform(0.48, 0.58), rng.uniform(0.44, 0.54), rng.uniform(-0.45, -0.28))
    spout = [(-0.3, 0.35), (-0.72, 0.1), (-0.98, lift), (-0.84, lift - 0.06), (-0.62, -0.1)]
    layers = [Layer(smooth([*spout, (-0.3, -0.02)]))]
    layers += [Layer(arc(rx - 0.1, 0.12, 0.46, 0.34, -100.0, 100.0, rng.uniform(0.1, 0.15)))]
    layers += [Layer(superellipse(0.0, 0.2 + ry, 0.3, 0.07), Paint.TRIM)]
    layers += [Layer(superellipse(0.0, 0.2, rx, ry, rng.uniform(2.0, 2.5)))]
    layers += [Layer(superellipse(0.0, 0.22 - ry, 0.32, 0.13), Paint.TRIM)]
    layers += [Layer(superellipse(0.0, 0.05 - ry, 0.09, 0.1), Paint.METAL)]
    waist = [(-rx + 0.03, 0.2), (0.0, 0.34), (rx - 0.03, 0.2)]
    return [*layers, seam([tuple(point) for point in smooth(waist, closed=False)], 0.03)]


def knife(rng: np.random.Generator) -> list[Layer]:
    """Draw a kitchen knife: a pointed blade and a riveted handle."""
    depth, neck, belly = (rng.uniform(0.18, 0.34), rng.uniform(0.12, 0.3), rng.uniform(-0.7, -0.4))
    back, edge = -0.14, -0.14 + depth + 0.06
    blade = smooth([(belly, edge - 0.02), (-0.8, edge * 0.5), (-0.98, back + 0.04)], closed=False)
    outline = np.vstack([polygon([(neck, back), (neck, edge)]), blade, polygon([(-0.7, back)])])
    grip = [(neck, -0.13), (0.5, -0.15), (0.94, -0.12), (0.98, 0.08), (0.88, 0.1), (0.5, 0.03)]
    layers = [Layer(outline, Paint.METAL), Layer(polygon([*grip, (neck, 0.05)]))]
    layers += [Layer(ribbon([(neck, -0.15), (neck, 0.07)], 0.09), Paint.TRIM)]
    layers += [seam([(neck - 0.05, edge - 0.06), (belly, edge - 0.08)], 0.02)]
    holes = np.linspace(neck + 0.16, 0.84, 3)
    return layers + [Layer(superellipse(x, -0.045, 0.035, 0.035), Paint.TRIM) for x in holes]
