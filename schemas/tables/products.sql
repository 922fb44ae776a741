CREATE TABLE products (
  product_id STRING NOT NULL COMMENT "The retailer's own identifier",
  title STRING COMMENT 'Product title as the seller wrote it',
  description STRING COMMENT 'Product description as the seller wrote it',
  category_id STRING COMMENT 'Category the seller gave, or null',
  category_path STRING COMMENT 'Path of that category, such as Fruit/Apple/Granny-Smith',
  given_split STRING COMMENT 'train, validation or test when the manifest fixes it, else null',
  attributes MAP<STRING, STRING> COMMENT 'Manifest columns that have no column of their own',
  updated_at TIMESTAMP NOT NULL COMMENT 'When a run last changed this row (UTC)',
  run_id STRING NOT NULL COMMENT 'The run that last changed this row',
  delisted_at TIMESTAMP COMMENT 'When a full manifest first no longer named this product (UTC); null while it is listed'
) USING DELTA
COMMENT 'One row per product of the manifests seen so far'
TBLPROPERTIES (
  'delta.enableDeletionVectors' = 'false',
  'delta.dataSkippingNumIndexedCols' = '1',
  'delta.constraints.product_id_not_empty' = 'length(product_id) > 0',
  'delta.constraints.given_split_known' = "given_split IS NULL OR given_split IN ('train', 'validation', 'test')"
)
