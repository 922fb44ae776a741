"""Titles, descriptions and brands, with the commas, quotes and accents of real feeds."""

from typing import NamedTuple

import numpy as np

NOUNS: dict[str, tuple[str, ...]] = {
    "Bags/Backpacks": ("backpack", "rucksack", "day pack"),
    "Bags/Suitcases": ("suitcase", "cabin trolley", "hard-shell case"),
    "Bags/Totes": ("tote", "shopper", "carry-all"),
    "Clothes/Dresses": ("dress", "summer dress", "pleated dress"),
    "Clothes/Jackets": ("jacket", "blouson", "overshirt"),
    "Clothes/T-Shirts": ("T-shirt", "crew-neck tee", "jersey top"),
    "Clothes/Trousers": ("trousers", "chinos", "jeans"),
    "Kitchen/Knives": ("chef's knife", "kitchen knife", "carving knife"),
    "Kitchen/Mugs": ("mug", "coffee mug", "café cup"),
    "Kitchen/Pans": ("frying pan", "skillet", "sauté pan"),
    "Kitchen/Teapots": ("teapot", "tea kettle", "tea pot"),
    "Shoes/Boots": ("boots", "lace-up boots", "walking boots"),
    "Shoes/Heels": ("heels", "court shoes", "stilettos"),
    "Shoes/Sneakers": ("sneakers", "trainers", "running shoes"),
}
"""Category path to the words that a seller calls it."""

BRANDS = ("Nordwind", "Atelier Été", "Señora & Co.", "Häkan", "O'Leary", "Łódź Works", "東京堂")
MANNERS = ("classic", "light", "everyday", "hand-made", "robust", "limited", "vintage")
VAGUE_TITLES = ("NEW! Best price", "Gift idea, top quality", 'Special offer "last chance"')
QUALITIES = (
    "Easy to care for",
    "Made in small batches",
    'Size 12" by 8", colour may vary',
    "Wear it, use it, love it",
    "Für jeden Tag",
    "Déjà un classique",
    "Ships in 2-3 days",
)


class ProductText(NamedTuple):
    """What a seller writes about a product."""

    title: str
    description: str
    brand: str


def write_text(category: str, rng: np.random.Generator) -> ProductText:
    """Write about a product at random; one title in twenty does not say what it is."""
    brand, manner, noun = (str(rng.choice(words)) for words in (BRANDS, MANNERS, NOUNS[category]))
    title = f'{brand} {manner} {noun}, "{noun.upper()} {rng.integers(10, 100)}"'
    if rng.random() < 0.05:
        title = str(rng.choice(VAGUE_TITLES))
    first, second = rng.choice(QUALITIES, size=2, replace=False)
    return ProductText(
        title, f"A {manner} {noun} by {brand}. {first}; {str(second).lower()}.", brand
    )
