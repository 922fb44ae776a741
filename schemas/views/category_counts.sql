-- Listed products by predicted category, with how sure the model is of them.
SELECT
  category_path,
  count(*) AS products,
  round(avg(confidence), 3) AS mean_confidence
FROM product_predictions
LEFT ANTI JOIN (SELECT product_id FROM products WHERE delisted_at IS NOT NULL) USING (product_id)
WHERE decision <> 'abstained'
GROUP BY category_path
