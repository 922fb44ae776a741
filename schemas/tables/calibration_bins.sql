CREATE TABLE calibration_bins (
  model_name STRING NOT NULL COMMENT 'Registered model name',
  model_version INT NOT NULL COMMENT 'Version within the name',
  split STRING NOT NULL COMMENT 'validation or test',
  is_calibrated BOOLEAN NOT NULL COMMENT 'Whether confidences are those with the temperature',
  low DOUBLE NOT NULL COMMENT 'Lower edge of the bin of confidences',
  high DOUBLE NOT NULL COMMENT 'Upper edge',
  rows BIGINT NOT NULL COMMENT 'Images in the bin; empty bins have no row',
  mean_confidence DOUBLE NOT NULL COMMENT 'What the model claims to be right of them',
  accuracy DOUBLE NOT NULL COMMENT 'What it is right of them',
  run_id STRING NOT NULL COMMENT 'The run that trained the model'
) USING DELTA
COMMENT 'Confidence against accuracy before and after temperature scaling'
TBLPROPERTIES (
  'delta.enableDeletionVectors' = 'false',
  'delta.constraints.split_known' = "split IN ('validation', 'test')",
  'delta.constraints.rows_positive' = 'rows > 0'
)
