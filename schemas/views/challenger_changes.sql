-- Listed products by what is published of them and what a model scored beside it would publish.
SELECT
  shadow.model_name,
  shadow.model_version,
  CASE WHEN published.product_id IS NULL THEN '(not decided)'
       ELSE coalesce(published.category_path, '(withheld)') END AS published_path,
  coalesce(shadow.category_path, '(withheld)') AS shadow_path,
  NOT (published.category_id <=> shadow.category_id) AS is_change,
  count(*) AS products,
  round(avg(published.confidence), 3) AS published_confidence,
  round(avg(shadow.confidence), 3) AS shadow_confidence
FROM shadow_predictions AS shadow
LEFT JOIN product_predictions AS published ON published.product_id = shadow.product_id
LEFT ANTI JOIN (SELECT product_id FROM products WHERE delisted_at IS NOT NULL) AS gone
  ON gone.product_id = shadow.product_id
GROUP BY 1, 2, 3, 4, 5
