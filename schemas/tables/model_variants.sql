CREATE TABLE model_variants (
  measured_at TIMESTAMP NOT NULL COMMENT 'When the run began that measured it (UTC)',
  model_name STRING NOT NULL COMMENT 'Registered model name',
  model_version INT NOT NULL COMMENT 'Version that it was made from, as it was trained',
  variant STRING NOT NULL COMMENT 'Library and precision, such as onnx-int8; torch-fp32 is the model as trained',
  verdict STRING NOT NULL COMMENT 'reference: the model as trained; kept: registered; not_fastest: within the bounds; refused: answers differently, or is far too slow; not_made: not possible on this machine',
  reason STRING COMMENT 'The bound that a refused one missed, or why one was not made',
  images_per_second DOUBLE COMMENT 'Median over batches, of the network alone; null when not made',
  speed_up DOUBLE COMMENT 'Images per second over those of the model as trained, in the same run',
  agreement DOUBLE COMMENT 'Share of the test images with the best category of the model as trained',
  accuracy DOUBLE COMMENT 'Share of the test images whose best category is right',
  accepted DOUBLE COMMENT 'Share of the test images whose best category is sure enough to be given, as of products of one image each; null before it was measured',
  made_version INT COMMENT 'Version that the kept one was registered as, null for all others',
  test_images BIGINT NOT NULL COMMENT 'Images of the test split that it answered',
  training_table_version BIGINT NOT NULL COMMENT 'Version of training_examples that they are of',
  threads INT NOT NULL COMMENT 'Threads that computed',
  processor STRING NOT NULL COMMENT 'Of the machine that measured, and the instructions that PyTorch used of it',
  run_id STRING NOT NULL COMMENT 'The run that measured it, as in run_log'
) USING DELTA
COMMENT 'What optimise tried to make a model faster, and what each variant showed'
TBLPROPERTIES (
  'delta.enableDeletionVectors' = 'false',
  'delta.constraints.verdict_known' = "verdict IN ('reference', 'kept', 'not_fastest', 'refused', 'not_made')"
)
