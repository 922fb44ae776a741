CREATE TABLE evaluation_metrics (
  model_name STRING NOT NULL COMMENT 'Registered model name',
  model_version INT NOT NULL COMMENT 'Version within the name',
  split STRING NOT NULL COMMENT 'validation or test',
  name STRING NOT NULL COMMENT 'What was measured, such as accuracy, macro_f1 or calibration_error',
  value DOUBLE NOT NULL COMMENT 'The figure',
  low DOUBLE COMMENT 'Lower bound of its 95% bootstrap interval, null where there is none',
  high DOUBLE COMMENT 'Upper bound',
  run_id STRING NOT NULL COMMENT 'The run that trained the model'
) USING DELTA
COMMENT 'Figures of a model version over all images of a split'
TBLPROPERTIES (
  'delta.enableDeletionVectors' = 'false',
  'delta.constraints.split_known' = "split IN ('validation', 'test')"
)
