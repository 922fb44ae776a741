CREATE TABLE promotions (
  promoted_at TIMESTAMP NOT NULL COMMENT 'When it was decided (UTC)',
  model_name STRING NOT NULL COMMENT 'Registered model name',
  action STRING NOT NULL COMMENT 'first: registered while the model had no champion, nothing compared; promoted, refused, rolled_back, or interrupted: written down, but the alias did not move or was moved away by other means',
  version INT NOT NULL COMMENT 'Version that became champion, or was refused',
  previous_version INT COMMENT 'Champion until then, null when there was none',
  forced BOOLEAN NOT NULL COMMENT 'Whether it was asked for with --force; the checks say whether that was needed',
  checks ARRAY<STRUCT<name: STRING, bound: DOUBLE, champion: DOUBLE, challenger: DOUBLE, passed: BOOLEAN, rows: BIGINT, category_path: STRING>> NOT NULL COMMENT 'Settings under promote with both figures; category_path is the class of max_class_loss. Empty for a first champion and a rollback, and where --force passed over a comparison that could not be made',
  training_table_version BIGINT COMMENT 'Version of training_examples whose test rows both models answered, null for a first champion and a rollback',
  test_rows BIGINT COMMENT 'How many these were, null when nothing was compared',
  run_id STRING NOT NULL COMMENT 'The run that decided it, as in run_log'
) USING DELTA
COMMENT 'Which model version took the place of which, by what figures; refusals too'
TBLPROPERTIES (
  'delta.enableDeletionVectors' = 'false',
  'delta.constraints.action_known' = "action IN ('first', 'promoted', 'refused', 'rolled_back', 'interrupted')"
)
