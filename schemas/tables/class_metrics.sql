CREATE TABLE class_metrics (
  model_name STRING NOT NULL COMMENT 'Registered model name',
  model_version INT NOT NULL COMMENT 'Version within the name',
  split STRING NOT NULL COMMENT 'validation or test',
  category_id STRING NOT NULL COMMENT 'A class of the model',
  category_path STRING NOT NULL COMMENT 'Path of the category',
  support BIGINT NOT NULL COMMENT 'Images whose true category this is',
  predicted BIGINT NOT NULL COMMENT 'Images predicted as this category',
  precision DOUBLE NOT NULL COMMENT 'Share of the predicted that are right, 0 when none is predicted',
  precision_low DOUBLE COMMENT 'Lower bound of the 95% bootstrap interval, null where there is none',
  precision_high DOUBLE COMMENT 'Upper bound',
  recall DOUBLE NOT NULL COMMENT 'Share of the true that are found, 0 without any',
  recall_low DOUBLE COMMENT 'Lower bound',
  recall_high DOUBLE COMMENT 'Upper bound',
  f1 DOUBLE NOT NULL COMMENT 'Harmonic mean of precision and recall',
  f1_low DOUBLE COMMENT 'Lower bound',
  f1_high DOUBLE COMMENT 'Upper bound',
  threshold DOUBLE COMMENT 'Least confidence to accept it, above 1 for never; null when none was fitted',
  accepted BIGINT COMMENT 'Products predicted as this category that the threshold accepts',
  accepted_precision DOUBLE COMMENT 'Share of the accepted that are right, null when none is accepted',
  run_id STRING NOT NULL COMMENT 'The run that trained the model'
) USING DELTA
COMMENT 'Figures of each class of a model version, by split'
TBLPROPERTIES (
  'delta.enableDeletionVectors' = 'false',
  'delta.constraints.split_known' = "split IN ('validation', 'test')"
)
