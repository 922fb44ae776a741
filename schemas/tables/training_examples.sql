CREATE TABLE training_examples (
  image_id STRING NOT NULL COMMENT 'Key of images; an image appears once, under one product',
  product_id STRING NOT NULL COMMENT 'The product it was labelled through',
  content BINARY NOT NULL COMMENT 'The stored JPEG, copied so that a version needs no join',
  title STRING COMMENT 'Product title',
  description STRING COMMENT 'Product description',
  category_id STRING NOT NULL COMMENT 'The label',
  category_path STRING NOT NULL COMMENT 'Path of the label',
  taxonomy_version INT NOT NULL COMMENT 'Version of the tree that the label belongs to',
  group_id STRING NOT NULL COMMENT 'Rows of one group are always in one split',
  split STRING NOT NULL COMMENT 'train, validation or test'
) USING DELTA
PARTITIONED BY (split)
COMMENT 'Labelled images in a seeded shuffled order, one table version per build'
TBLPROPERTIES (
  'delta.enableDeletionVectors' = 'false',
  'delta.dataSkippingNumIndexedCols' = '2',
  'delta.constraints.split_known' = "split IN ('train', 'validation', 'test')"
)
