-- Listed images that have a near duplicate among listed images, with the size of their group.
WITH listed AS (
  SELECT duplicate.duplicate_group, link.image_id, link.product_id, link.source_uri
  FROM image_duplicates AS duplicate
  INNER JOIN product_images AS link ON link.image_id = duplicate.image_id
  WHERE link.delisted_at IS NULL
),
sizes AS (
  SELECT
    duplicate_group,
    count(DISTINCT image_id) AS images_in_group,
    count(DISTINCT product_id) AS products_in_group
  FROM listed
  GROUP BY duplicate_group
),
-- An image that several products show is named by the first of them.
first_links AS (
  SELECT duplicate_group, image_id, min(struct(product_id, source_uri)) AS link
  FROM listed
  GROUP BY duplicate_group, image_id
)
SELECT
  image.duplicate_group,
  image.image_id,
  image.link.product_id,
  image.link.source_uri,
  sizes.images_in_group,
  sizes.products_in_group
FROM first_links AS image
INNER JOIN sizes ON sizes.duplicate_group = image.duplicate_group
WHERE sizes.images_in_group > 1
