"""Labels and predictions in tables, moved to the categories that theirs are now."""

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from catalog_batch.moves import Moves
from catalog_batch.spark import lookup

_NOWHERE = ""


def with_current_label(labels: DataFrame, moves: Moves) -> DataFrame:
    """Give labels the category that theirs is now; of a split or withdrawn one they keep it."""
    if not moves.new_paths:
        return labels
    now = _moved(moves, F.col("category_id"))
    return labels.withColumn("category_id", F.coalesce(_if_anywhere(now), "category_id"))


def with_current_category(predictions: DataFrame, moves: Moves) -> DataFrame:
    """Move predictions of products to the categories that theirs are now.

    Decisions stay. Guesses that became one category have their confidences added; those that were
    split are dropped, for nobody knows what share each part has, but the margin is still the lead
    over them (a later mapping that merges others no longer knows of them). It is below zero where
    merged ones are now likelier than the best guess. A prediction whose own category was split or
    withdrawn stays as it is, with the version of its tree.

    Args:
        predictions: Rows of ``product_predictions``.
        moves: Of all categories.
    """
    if not moves.new_paths:
        return predictions
    paths = {new[0]: new[1] for new in moves.destinations.values() if new}
    own = F.coalesce("category_id", "best_category_id")
    category = _moved(moves, F.col("category_id"))
    best = _if_anywhere(_moved(moves, F.col("best_category_id")))
    guesses = _merged(moves)
    of_best = F.get(F.filter(guesses, lambda guess: guess["category_id"] == best), F.lit(0))
    gone = F.filter("top_k", lambda guess: _moved(moves, guess["category_id"]) == _NOWHERE)
    is_merged = F.size(guesses) + F.size(gone) < F.size("top_k")
    confidence = F.when(
        F.col("decision") != "backed_off", F.coalesce(of_best["confidence"], "confidence")
    ).otherwise(F.col("confidence"))
    others = F.filter(guesses, lambda guess: guess["category_id"] != best)
    second = F.greatest(
        *(F.coalesce(F.get(of, F.lit(0))["confidence"], F.lit(0.0)) for of in (others, gone))
    )
    changed = {
        "category_id": category,
        "category_path": F.coalesce(lookup(paths, category), "category_path"),
        "best_category_id": best,
        "top_k": guesses,
        "confidence": confidence,
        "margin": F.when(is_merged & of_best.isNotNull(), of_best["confidence"] - second)
        .otherwise(F.col("margin"))
        .cast("float"),
        "taxonomy_version": F.greatest("taxonomy_version", F.lit(moves.version)),
    }
    # A product that nobody guessed anything of belongs to any tree.
    stays = F.coalesce(_moved(moves, own) == _NOWHERE, F.lit(False))
    return predictions.withColumns(
        {name: F.when(stays, F.col(name)).otherwise(value) for name, value in changed.items()}
    )


def is_moved(moves: Moves) -> Column:
    """Return whether the category of a prediction is elsewhere now, and the prediction with it."""
    return F.coalesce(F.col("category_id").isin([*moves.ids_now]), F.lit(False)) & ~is_stuck(moves)


def has_moved_guess(moves: Moves) -> Column:
    """Return whether a guess of a prediction is elsewhere, which itself stays where it is.

    Of a prediction that is stuck nothing is moved.
    """
    named = F.array_union(F.array("best_category_id"), F.col("top_k")["category_id"])
    elsewhere = [*moves.ids_now]
    is_elsewhere = F.exists(F.array_compact(named), lambda category: category.isin(elsewhere))
    return is_elsewhere & ~is_moved(moves) & ~is_stuck(moves)


def is_stuck(moves: Moves) -> Column:
    """Return whether a prediction's category was split or withdrawn."""
    own = F.coalesce("category_id", "best_category_id")
    return F.coalesce(_moved(moves, own) == _NOWHERE, F.lit(False))


def _merged(moves: Moves) -> Column:
    """Return ``top_k`` with the categories of now, each once, best first."""
    now = F.filter(
        F.transform(
            "top_k",
            lambda guess: F.struct(
                _moved(moves, guess["category_id"]).alias("category_id"),
                guess["confidence"].alias("confidence"),
            ),
        ),
        lambda guess: guess["category_id"] != _NOWHERE,
    )
    summed = F.transform(
        F.array_distinct(now["category_id"]),
        lambda category: F.struct(
            F.aggregate(
                F.filter(now, lambda guess: guess["category_id"] == category),
                F.lit(0.0).cast("float"),
                lambda total, guess: (total - guess["confidence"]).cast("float"),
            ).alias("negative"),
            category.alias("category_id"),
        ),
    )
    return F.transform(
        F.sort_array(summed),
        lambda guess: F.struct(
            guess["category_id"].alias("category_id"), (-guess["negative"]).alias("confidence")
        ),
    )


def _moved(moves: Moves, category: Column) -> Column:
    """Return where a category is now: itself when it never moved, ``_NOWHERE`` after a split."""
    ids = {old: new[0] if new else _NOWHERE for old, new in moves.destinations.items()}
    return F.coalesce(lookup(ids, category), category)


def _if_anywhere(category: Column) -> Column:
    return F.nullif(category, F.lit(_NOWHERE))
