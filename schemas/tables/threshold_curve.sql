CREATE TABLE threshold_curve (
  model_name STRING NOT NULL COMMENT 'Registered model name',
  model_version INT NOT NULL COMMENT 'Version within the name',
  split STRING NOT NULL COMMENT 'validation or test',
  threshold DOUBLE NOT NULL COMMENT 'A least confidence, the same for all classes',
  coverage DOUBLE NOT NULL COMMENT 'Share of the products that it accepts',
  precision DOUBLE NOT NULL COMMENT 'Share of the accepted that are right',
  run_id STRING NOT NULL COMMENT 'The run that trained the model'
) USING DELTA
COMMENT 'Precision against coverage of a model version, by split'
TBLPROPERTIES (
  'delta.enableDeletionVectors' = 'false',
  'delta.constraints.split_known' = "split IN ('validation', 'test')"
)
