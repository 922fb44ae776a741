CREATE TABLE labels (
  product_id STRING NOT NULL COMMENT 'The labelled product',
  source STRING NOT NULL COMMENT 'Who says so: seller, rule or reviewer, from least to most trusted',
  category_id STRING NOT NULL COMMENT 'The category given',
  labelled_at TIMESTAMP NOT NULL COMMENT 'When the label was given or last changed (UTC)',
  run_id STRING NOT NULL COMMENT 'The run that wrote it'
) USING DELTA
COMMENT 'Category labels by source; the training set takes the most trusted one of a product'
TBLPROPERTIES (
  'delta.enableDeletionVectors' = 'false',
  'delta.dataSkippingNumIndexedCols' = '2',
  'delta.constraints.source_known' = "source IN ('seller', 'rule', 'reviewer')"
)
