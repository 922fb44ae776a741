CREATE TABLE confusion_matrix (
  model_name STRING NOT NULL COMMENT 'Registered model name',
  model_version INT NOT NULL COMMENT 'Version within the name',
  split STRING NOT NULL COMMENT 'validation or test',
  true_category_id STRING NOT NULL COMMENT 'What the images are',
  predicted_category_id STRING NOT NULL COMMENT 'What the model said',
  rows BIGINT NOT NULL COMMENT 'Images; pairs without any have no row',
  run_id STRING NOT NULL COMMENT 'The run that trained the model'
) USING DELTA
COMMENT 'How often a category was taken for another, or for itself'
TBLPROPERTIES (
  'delta.enableDeletionVectors' = 'false',
  'delta.constraints.split_known' = "split IN ('validation', 'test')",
  'delta.constraints.rows_positive' = 'rows > 0'
)
