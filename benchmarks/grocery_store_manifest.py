"""Write a manifest of the Grocery Store photos, with their official split and category tree.

    python benchmarks/grocery_store_manifest.py ../shared/data/grocery-store/dataset grocery.csv
    catalog-batch ingest grocery.csv --images ../shared/data/grocery-store/dataset -w grocery

The 5,421 photos: Klasson, Zhang and Kjellström, "A Hierarchical Grocery Store Image Dataset
with Visual and Semantic Labels" (WACV 2019). A product is a photo: the data set knows no other.
"""

import csv
import sys
from collections.abc import Iterator
from pathlib import Path

SPLITS = {"train.txt": "train", "val.txt": "validation", "test.txt": "test"}
COLUMNS = ("product_id", "image_uri", "category", "title", "split")


def grocery_rows(dataset: Path) -> Iterator[dict[str, str]]:
    """Yield one manifest row a photo, in the order of the official lists."""
    with (dataset / "classes.csv").open(encoding="utf-8", newline="") as file:
        classes = {row["Class ID (int)"]: row for row in csv.DictReader(file)}
    for name, split in SPLITS.items():
        for line in (dataset / name).read_text(encoding="utf-8").splitlines():
            path, class_id, _ = (part.strip() for part in line.split(","))
            fine = classes[class_id]["Class Name (str)"]
            coarse = classes[class_id]["Coarse Class Name (str)"]
            department = path.split("/")[1]
            yield {
                "product_id": f"{split}/{Path(path).stem}",
                "image_uri": path,
                "category": f"{department}/{coarse}/{fine}",
                "title": fine.replace("-", " "),
                "split": split,
            }


def main(dataset: str, output: str) -> None:
    rows = list(grocery_rows(Path(dataset)))
    with Path(output).open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    print(f"{len(rows):,} rows in {output}")


if __name__ == "__main__":
    main(*sys.argv[1:])
