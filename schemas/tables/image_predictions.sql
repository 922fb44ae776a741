CREATE TABLE image_predictions (
  image_id STRING NOT NULL COMMENT 'The scored image',
  model_name STRING NOT NULL COMMENT 'Registered model name',
  model_version INT NOT NULL COMMENT 'Registered model version',
  top_k ARRAY<STRUCT<category_id: STRING, confidence: FLOAT>> NOT NULL COMMENT 'Most likely categories, best first; empty when the image could not be scored',
  others ARRAY<STRUCT<category_id: STRING, confidence: FLOAT>> COMMENT 'Further categories with a confidence of 0.01 or more, best first; null before they were kept',
  margin FLOAT COMMENT 'Confidence of the first category minus that of the second',
  nodes ARRAY<STRUCT<category_id: STRING, confidence: FLOAT>> COMMENT 'Categories above classes, with the sum of the confidences of all classes below, where it is 0.01 or more; null before such sums were kept',
  energy FLOAT COMMENT 'How unlike the training images it is: higher is less alike',
  failure STRING COMMENT 'Why the image could not be scored, else null',
  scored_at TIMESTAMP NOT NULL COMMENT 'When it was scored (UTC)',
  run_id STRING NOT NULL COMMENT 'The run that scored it',
  ingested_at TIMESTAMP COMMENT 'When the image was stored (UTC), by which a MERGE finds the files to read; null before it was kept'
) USING DELTA
COMMENT 'What each model version says of each image'
TBLPROPERTIES (
  'delta.enableDeletionVectors' = 'false',
  'delta.dataSkippingStatsColumns' = 'image_id,model_name,model_version,run_id,ingested_at',
  'delta.constraints.margin_is_share' = 'margin IS NULL OR (margin >= 0 AND margin <= 1)',
  'delta.constraints.scored_or_failed' = '(failure IS NULL) = (size(top_k) > 0)'
)
