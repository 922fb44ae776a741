CREATE TABLE shadow_predictions (
  product_id STRING NOT NULL COMMENT 'The product',
  category_id STRING COMMENT 'Predicted category; null when the decision is abstained',
  category_path STRING COMMENT 'Its path',
  confidence FLOAT COMMENT "Mean confidence over the product's images: in the predicted category, or when abstained in the best guess",
  margin FLOAT COMMENT 'Confidence of the best guess minus that of the second; below zero when categories that were merged since are together the likeliest',
  top_k ARRAY<STRUCT<category_id: STRING, confidence: FLOAT>> COMMENT 'Best guesses with their mean confidences, best first; empty without a usable image',
  decision STRING NOT NULL COMMENT 'accepted, backed_off or abstained',
  reason STRING COMMENT 'Why the best guess was not accepted: low_confidence, small_margin, images_disagree, no_usable_image or out_of_distribution, else null',
  best_category_id STRING COMMENT 'The best guess, also when abstained',
  image_count INT NOT NULL COMMENT 'Images that were scored for it',
  model_name STRING NOT NULL COMMENT 'Registered model name',
  model_version INT NOT NULL COMMENT 'Registered model version',
  taxonomy_version INT NOT NULL COMMENT 'Version of the tree that the category is of: the one the model was trained on, or a later one that it was moved to',
  images_version BIGINT NOT NULL COMMENT 'Version of the images table that was scored',
  predicted_at TIMESTAMP NOT NULL COMMENT 'When the prediction was last changed (UTC)',
  run_id STRING NOT NULL COMMENT 'The run that last changed it'
) USING DELTA
COMMENT 'What a model version would publish of each product, beside what is published'
TBLPROPERTIES (
  'delta.enableDeletionVectors' = 'false',
  'delta.dataSkippingStatsColumns' = 'product_id,model_name,model_version,predicted_at',
  'delta.constraints.decision_known' = "decision IN ('accepted', 'backed_off', 'abstained')",
  'delta.constraints.abstained_has_no_category' = "(decision = 'abstained') = (category_id IS NULL)",
  'delta.constraints.reason_unless_accepted' = "(decision = 'accepted') = (reason IS NULL)",
  'delta.constraints.confidence_is_share' = 'confidence IS NULL OR (confidence >= 0 AND confidence <= 1.0001)'
)
