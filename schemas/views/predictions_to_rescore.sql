-- Listed products whose published category was split or withdrawn since: a model of the newer tree has to see them.
SELECT
  prediction.product_id,
  prediction.decision,
  change.old_path,
  change.change,
  change.new_paths,
  change.taxonomy_version
FROM product_predictions AS prediction
JOIN taxonomy_changes AS change
  ON change.old_category_id = coalesce(prediction.category_id, prediction.best_category_id)
LEFT ANTI JOIN (SELECT product_id FROM products WHERE delisted_at IS NOT NULL) AS gone
  ON gone.product_id = prediction.product_id
WHERE change.new_category_id IS NULL
  AND change.taxonomy_version = (SELECT max(taxonomy_version) FROM taxonomy_changes)
