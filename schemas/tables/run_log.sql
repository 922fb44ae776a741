CREATE TABLE run_log (
  run_id STRING NOT NULL COMMENT 'Identifier of the run, in order of time',
  job STRING NOT NULL COMMENT 'ingest, build-training-set, train, search, optimise, promote, rollback, score, migrate-taxonomy or maintain-tables',
  status STRING NOT NULL COMMENT 'published, nothing_to_do, refused, stopped or failed',
  exit_code INT NOT NULL COMMENT 'What the scheduler saw',
  rows_in BIGINT COMMENT 'Rows the run was given',
  rows_out BIGINT COMMENT 'Rows the run published',
  counts MAP<STRING, BIGINT> COMMENT 'Rows by outcome',
  rejected MAP<STRING, BIGINT> COMMENT 'Rows rejected by reason',
  images_per_second DOUBLE COMMENT 'Images handled per second of the stage that handles them',
  table_versions MAP<STRING, BIGINT> COMMENT 'Versions of the tables that the run read or wrote',
  config_hash STRING NOT NULL COMMENT 'SHA-256 of all settings in force, shortened',
  error STRING COMMENT 'What went wrong, else null',
  started_at TIMESTAMP NOT NULL COMMENT 'UTC',
  finished_at TIMESTAMP NOT NULL COMMENT 'UTC',
  measures MAP<STRING, DOUBLE> COMMENT 'Further figures, such as bytes_read, bytes_encoded (of duplicates too), decode_ms_p50 and decode_ms_p95, or start_up_seconds until the first image was scored',
  made_of STRING COMMENT 'For a scoring that left nothing to do: hash of all that it went by and led to, else null',
  model STRING COMMENT 'The model version that the run trained, scored with, promoted or made variants of, else null'
) USING DELTA
COMMENT 'One row per run of a job, also of those that failed'
TBLPROPERTIES (
  'delta.enableDeletionVectors' = 'false',
  'delta.constraints.status_known' = "status IN ('published', 'nothing_to_do', 'refused', 'stopped', 'failed')"
)
