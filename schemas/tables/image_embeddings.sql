CREATE TABLE image_embeddings (
  image_id STRING NOT NULL COMMENT 'The scored image',
  model_name STRING NOT NULL COMMENT 'Registered model name',
  model_version INT NOT NULL COMMENT 'Registered model version',
  embedding ARRAY<FLOAT> NOT NULL COMMENT 'What the network gives its last layers for the image; as long for all images of a model version',
  scored_at TIMESTAMP NOT NULL COMMENT 'When it was scored (UTC)',
  run_id STRING NOT NULL COMMENT 'The run that scored it'
) USING DELTA
COMMENT 'Images as points: near ones look alike to the model version; written when score.keep_embeddings is set'
TBLPROPERTIES (
  'delta.enableDeletionVectors' = 'false',
  'delta.dataSkippingStatsColumns' = 'image_id,model_name,model_version',
  'delta.constraints.embedding_has_values' = 'size(embedding) > 0'
)
