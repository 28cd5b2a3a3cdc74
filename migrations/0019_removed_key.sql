-- A removed key stays removed until an operator restores it. The row remains: tokens issued before the removal stay revoked.
ALTER TABLE removed_key ADD COLUMN restored_at timestamptz;
CREATE INDEX removed_key_by_jkt ON removed_key (jkt) WHERE restored_at IS NULL;
