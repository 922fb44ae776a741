"""Silhouettes of shoes, seen from the side with the toe to the right."""

import numpy as np

from catalog_batch.demo.outlines import Layer, Paint, arc, polygon, ribbon, seam, smooth


def boot(rng: np.random.Generator) -> list[Layer]:
    """Draw a boot: a tall shaft, laces, a thick sole with a heel."""
    top, toe, heel = (rng.uniform(-0.95, -0.75), rng.uniform(0.78, 0.95), rng.uniform(0.86, 0.98))
    shaft = [(-0.5, top), (0.14, top), (0.12, -0.15)]
    foot = smooth([(0.12, -0.15), (0.35, 0.14), (toe - 0.14, 0.3), (toe, 0.72)], closed=False)
    upper = np.vstack([polygon(shaft), foot, polygon([(-0.54, 0.72), (-0.52, 0.3)])])
    sole = [(-0.57, 0.7), (toe + 0.04, 0.7), (toe + 0.03, 0.84), (0.02, 0.84), (-0.06, 0.78)]
    cuff = polygon([(-0.53, top), (0.17, top), (0.17, top + 0.14), (-0.53, top + 0.14)])
    layers = [Layer(upper), Layer(cuff, Paint.SHADE)]
    layers += [Layer(polygon([*sole, (-0.14, heel), (-0.56, heel)]), Paint.TRIM)]
    layers += [seam([(0.0, top + 0.2), (-0.06, -0.1), (0.2, 0.22)], 0.03)]
    for y in np.linspace(top + 0.25, 0.0, 5):
        layers.append(Layer(ribbon([(-0.1, y), (0.17, y + 0.05)], 0.05), Paint.METAL))
    return [*layers, seam([(toe - 0.28, 0.3), (toe - 0.36, 0.7)], 0.03)]


def sneaker(rng: np.random.Generator) -> list[Layer]:
    """Draw a sneaker: low, a thick pale sole, laces, a stripe on the side."""
    tongue, toe, sole = (rng.uniform(-0.52, -0.4), rng.uniform(0.86, 0.98), rng.uniform(0.56, 0.66))
    back = [(-0.92, 0.4), (-0.86, -0.05), (-0.88, -0.36), (-0.62, -0.38), (-0.42, -0.2)]
    front = [(-0.2, tongue), (0.02, tongue), (0.35, -0.1), (toe - 0.18, 0.08), (toe, 0.4)]
    upper = np.vstack([smooth([*back, *front], closed=False), polygon([(0.0, 0.44)])])
    base = smooth([(-0.97, 0.36), (0.0, 0.38), (toe + 0.02, 0.36), (toe, sole), (-0.93, sole)])
    cap = smooth([(toe - 0.36, 0.4), (toe - 0.3, 0.1), (toe - 0.12, 0.12), (toe, 0.4)])
    layers = [Layer(upper), Layer(cap, Paint.SHADE), Layer(base, Paint.TRIM)]
    for step in np.linspace(0.0, 1.0, 4):
        x, y = -0.06 + 0.36 * step, tongue + 0.1 + 0.34 * step
        layers.append(Layer(ribbon([(x - 0.14, y + 0.12), (x + 0.1, y - 0.04)], 0.06), Paint.METAL))
    stripe = smooth([(-0.6, 0.3), (-0.3, 0.16), (0.1, 0.0)], closed=False)
    layers.append(Layer(ribbon(stripe, rng.uniform(0.08, 0.14)), Paint.TRIM))
    return [*layers, seam([(-0.6, -0.34), (-0.56, 0.0), (-0.8, 0.1)], 0.03)]


def heel(rng: np.random.Generator) -> list[Layer]:
    """Draw a high heel: a steep sole, a thin heel, a pointed toe, perhaps an ankle strap."""
    back, tip, thin = rng.uniform(-0.5, -0.36), rng.uniform(0.62, 0.72), rng.uniform(0.04, 0.12)
    rim = [(-0.84, back), (-0.6, back + 0.12), (-0.3, 0.0), (0.05, 0.22), (0.4, 0.2)]
    sole = [(0.92, tip - 0.1), (0.97, tip), (0.4, tip + 0.03), (0.05, 0.56), (-0.35, 0.28)]
    stiletto = [(-0.88, -0.1), (-0.46, 0.16), (-0.74 + thin, tip + 0.1), (-0.8, tip + 0.1)]
    lining = smooth([(-0.8, back), (-0.56, back + 0.02), (-0.2, -0.02), (0.4, 0.2), (0.0, 0.26)])
    bottom = smooth([(-0.5, 0.2), (-0.35, 0.28), (0.05, 0.57), (0.4, tip + 0.04)], closed=False)
    layers = [Layer(polygon(stiletto), Paint.TRIM), Layer(lining, Paint.SHADE)]
    layers += [Layer(smooth([*rim, *sole, (-0.62, 0.12), (-0.88, -0.05)]))]
    layers += [Layer(ribbon(bottom, 0.06), Paint.TRIM)]
    if rng.random() < 0.5:
        layers.append(Layer(arc(-0.62, back - 0.06, 0.26, 0.1, 0.0, 360.0, 0.06), Paint.METAL))
    return layers
