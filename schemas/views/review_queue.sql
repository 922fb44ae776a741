-- What a person should look at among listed products: withheld predictions, and accepted ones that contradict the seller.
SELECT
  prediction.product_id,
  product.title,
  coalesce(prediction.category_path, best.path) AS predicted_path,
  product.category_path AS seller_category_path,
  prediction.confidence,
  prediction.decision,
  coalesce(prediction.reason, 'differs_from_seller') AS reason
FROM product_predictions AS prediction
LEFT JOIN products AS product ON product.product_id = prediction.product_id
-- The seller's label is where a new category below an old name was put; the product has the path as the seller wrote it.
LEFT JOIN labels AS label ON label.product_id = prediction.product_id AND label.source = 'seller'
LEFT JOIN categories AS best
  ON best.category_id = prediction.best_category_id
  AND best.taxonomy_version = prediction.taxonomy_version
LEFT JOIN taxonomy_changes AS change
  ON change.old_category_id = label.category_id
  AND change.taxonomy_version = (SELECT max(taxonomy_version) FROM taxonomy_changes)
WHERE product.delisted_at IS NULL
  AND (
    prediction.decision <> 'accepted'
    OR CASE
      -- Split or withdrawn: any of the parts may be meant, and of none nobody knows better.
      WHEN change.old_category_id IS NOT NULL AND change.new_category_id IS NULL
        THEN prediction.category_id <> label.category_id
          AND size(change.new_paths) > 0
          AND NOT array_contains(change.new_paths, prediction.category_path)
      ELSE coalesce(change.new_category_id, label.category_id) <> prediction.category_id
    END
  )
