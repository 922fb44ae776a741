-- Products by predicted category, with how sure the model is of them.
SELECT
  category_path,
  count(*) AS products,
  round(avg(confidence), 3) AS mean_confidence
FROM product_predictions
WHERE decision <> 'abstained'
GROUP BY category_path
