CREATE TABLE models (
  model_name STRING NOT NULL COMMENT 'Registered model name',
  version INT NOT NULL COMMENT 'Version within the name, counted from 1',
  alias STRING COMMENT 'champion, challenger, previous (champion before this one) or null',
  architecture STRING NOT NULL COMMENT 'Network, by torchvision name',
  variant STRING COMMENT 'How it is run, such as torch-fp32 (as trained) or onnx-int8; null for rows of earlier releases',
  metrics MAP<STRING, DOUBLE> COMMENT 'What was measured at the end of training',
  training_table STRING NOT NULL COMMENT 'Table it was trained on',
  training_table_version BIGINT NOT NULL COMMENT 'Version of that table',
  taxonomy_version INT NOT NULL COMMENT 'Version of the category tree',
  git_commit STRING NOT NULL COMMENT 'Commit of the code that trained it, or unknown',
  digest STRING NOT NULL COMMENT "SHA-256 of the bundle's manifest",
  registered_at TIMESTAMP NOT NULL COMMENT 'When it was registered (UTC)',
  run_id STRING NOT NULL COMMENT 'The run that trained it'
) USING DELTA
COMMENT 'The model registry, for SQL'
TBLPROPERTIES (
  'delta.enableDeletionVectors' = 'false',
  'delta.constraints.version_positive' = 'version > 0'
)
