-- The published category of every listed product, beside what the seller said.
SELECT
  prediction.product_id,
  product.title,
  prediction.category_path,
  prediction.confidence,
  prediction.decision,
  prediction.reason,
  product.category_path AS seller_category_path,
  prediction.image_count,
  prediction.model_name,
  prediction.model_version,
  prediction.taxonomy_version,
  prediction.predicted_at
FROM product_predictions AS prediction
LEFT JOIN products AS product ON product.product_id = prediction.product_id
WHERE product.delisted_at IS NULL
