"""The silhouette of each category, drawn from a random generator that varies its cut."""

from collections.abc import Callable

import numpy as np

from catalog_batch.demo.outlines import Layer
from catalog_batch.demo.silhouettes import bags, clothes, kitchen, shoes

SILHOUETTES: dict[str, Callable[[np.random.Generator], list[Layer]]] = {
    "Bags/Backpacks": bags.backpack,
    "Bags/Suitcases": bags.suitcase,
    "Bags/Totes": bags.tote,
    "Clothes/Dresses": clothes.dress,
    "Clothes/Jackets": clothes.jacket,
    "Clothes/T-Shirts": clothes.t_shirt,
    "Clothes/Trousers": clothes.trousers,
    "Kitchen/Knives": kitchen.knife,
    "Kitchen/Mugs": kitchen.mug,
    "Kitchen/Pans": kitchen.pan,
    "Kitchen/Teapots": kitchen.teapot,
    "Shoes/Boots": shoes.boot,
    "Shoes/Heels": shoes.heel,
    "Shoes/Sneakers": shoes.sneaker,
}
"""Category path to the function that draws it."""

CATEGORIES = tuple(SILHOUETTES)
